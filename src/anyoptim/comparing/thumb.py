"""Rules of thumb for learning rates, as data: ``rates.json`` says how an optimizer's rate stands to AdamW's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from anyoptim.names.spec import OptimizerSpec


@dataclass(frozen=True)
class Thumb:
    """A rule of thumb for one optimizer.

    Args:
        factor: its rate over AdamW's.
        decides: it did better than what is measured, by evidence.
        source: who says so.
        says: what, in a sentence.
    """

    factor: float
    decides: bool = False
    source: str = ""
    says: str = ""


@cache
def thumbs() -> dict[str, Thumb]:
    """Return every rule, by the optimizer's name."""
    text = files("anyoptim.comparing").joinpath("rates.json").read_text(encoding="utf-8")
    return {name: Thumb(**rule) for name, rule in json.loads(text).items()}


def is_scale(spec: OptimizerSpec) -> bool:
    """Whether an optimizer finds its learning rate itself, so that the one it is given scales it, if it takes any."""
    low, high = spec.usual_lr or (0.0, 0.0)
    return (low <= 1 <= high <= 4 * low) or not any(each.name == "lr" for each in spec.hyperparameters)
