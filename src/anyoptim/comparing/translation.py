"""A learning rate for another optimizer, with what was measured for it and how to write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from anyoptim.comparing.ratios import Moved


@dataclass(frozen=True)
class Translation:
    """What to give the other optimizer.

    Args:
        source: the optimizer whose rate is known.
        target: the other one.
        source_rate: the known rate.
        rate: the other one's.
        low: the lower end of what was measured, over parameters, steps and seeds: a tenth of all lies below.
        high: the upper end.
        method: ``"measured"``; ``"range"``: less, as near to its usual range as the known one is to its own;
            ``"rule"``: a rule of thumb that does better; ``"itself"``: it finds its rate itself.
        why: what decided, in a sentence.
        fallback_rate: of a hybrid's fallback, if it has one that nobody set.
        weight_decay: the other one's, if one was given.
        betas: the other one's, if some were given and mean the same there.
        arguments: the fields of TrainingArguments to write.
        moved: how far both move each role, the other one at its last trial.
        notes: what else is to be known, in sentences.
    """

    source: str
    target: str
    source_rate: float
    rate: float
    low: float
    high: float
    method: str
    why: str
    fallback_rate: float | None
    weight_decay: float | None
    betas: tuple[float, ...] | None
    arguments: Mapping[str, object]
    moved: tuple[Moved, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """What to paste into ``TrainingArguments(...)``."""
        return ", ".join(f"{key}={json.dumps(value)}" for key, value in self.arguments.items())

    def to_dict(self) -> dict[str, object]:
        """Return it as plain values that JSON can hold."""
        return {**asdict(self), "line": self.line}
