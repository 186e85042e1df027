"""What of an optimizer goes into a copy and a pickle: all that it trains with."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

_OF_THE_ORIGINAL = {"step", "training_weights", "_opt_called", "_wrapped_by_lr_sched"}
"""What schedulers, mends and hooks hang on one object: methods that they counted or changed."""


def kept_attributes(optimizer: Optimizer) -> dict[str, Any]:
    """Return the attributes of an optimizer that make up its copy; torch itself keeps three of them.

    Hooks stay behind, as they do with torch's.
    """
    return {
        name: value
        for name, value in vars(optimizer).items()
        if name not in _OF_THE_ORIGINAL and not name.startswith("_optimizer_")
    }


class Whole:
    """Stands for an optimizer inside of another one while that is copied or pickled.

    Many packages' optimizers have attributes beside torch's three, and a copy of them alone would lack these.

    Args:
        optimizer: the one inside.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.kind = type(optimizer)
        self.attributes = kept_attributes(optimizer)

    def made_again(self) -> Optimizer:
        """Return the optimizer that this one stands for, in the copy."""
        made = object.__new__(self.kind)
        vars(made).update(self.attributes)
        Optimizer.__setstate__(made, {})  # hooks and profiling
        return made
