"""Rules of thumb for learning rates, as data in ``rates.json``, and which of them do better than what is measured."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from anyoptim.names.spec import OptimizerSpec
from anyoptim.planning.suggestions import same_place

BASELINE = "adamw_torch"
"""Whose rate the factors are for."""


@dataclass(frozen=True)
class Thumb:
    """A rule of thumb for one optimizer.

    Args:
        source: who says so.
        says: what, in words.
        factor: its rate over AdamW's; ``None``: it stands in its usual range where the other's stands in its own.
        decides: it does better than what is measured, by evidence.
    """

    source: str
    says: str
    factor: float | None = None
    decides: bool = False

    def rate(self, lr: float, source: OptimizerSpec, target: OptimizerSpec) -> float:
        """Return the rate by this rule.

        Args:
            lr: the known one.
            source: whose it is.
            target: the other optimizer.
        """
        return same_place(lr, source, target) if self.factor is None else lr * self.factor


@cache
def _thumbs() -> dict[str, Thumb]:
    text = files("anyoptim.comparing").joinpath("rates.json").read_text(encoding="utf-8")
    return {name: Thumb(**rule) for name, rule in json.loads(text).items()}


def rule_for(source: OptimizerSpec, target: OptimizerSpec) -> Thumb | None:
    """Return the rule that there is for two optimizers; a factor goes from AdamW only, a place both ways."""
    if source.name == target.name:
        return None
    rule = _thumbs().get(target.name) or _thumbs().get(source.name)
    return rule if rule is None or rule.factor is None or source.name == BASELINE else None


def highest_rate(lr: float, source: OptimizerSpec, target: OptimizerSpec) -> float:
    """Return the rate that is as far above another optimizer's usual range as the known one is above its own.

    Args:
        lr: the known one; inside of its range the other's range ends the other one.
        source: whose it is.
        target: the other optimizer.
    """
    if source.usual_lr is None or target.usual_lr is None:
        return math.inf
    return target.usual_lr[1] * max(lr / source.usual_lr[1], 1.0)


def is_scale(spec: OptimizerSpec) -> bool:
    """Whether an optimizer finds its learning rate itself, so that the one it is given scales it, if it takes any."""
    low, high = spec.usual_lr or (0.0, 0.0)
    return (low <= 1 <= high <= 4 * low) or not any(each.name == "lr" for each in spec.hyperparameters)
