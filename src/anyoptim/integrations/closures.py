"""Closures for the Trainer: optimizers that evaluate the loss again repeat the batches of the step.

transformers calls ``step()`` without a closure. ``Trainer.training_step`` sees every batch, scales the loss and runs
the backward pass: calling it again on the batches since the last step is the closure that a person would write.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import Any

import torch

from anyoptim.engines.closure import WithClosure
from anyoptim.integrations.patching import replace


def wrap_closures(undo: ExitStack) -> None:
    """Wrap ``Trainer.training_step``, which sees every batch, for optimizers that need a closure."""
    from transformers import Trainer

    training_step = Trainer.training_step

    @functools.wraps(training_step)
    def remembered_training_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = training_step(self, model, inputs, *args, **kwargs)
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        if isinstance(optimizer, WithClosure):
            if not isinstance(optimizer.closure, _Repeated):
                optimizer.closure = _Repeated(self)
            optimizer.closure.add(model, inputs, args, kwargs)
        return loss

    replace(undo, Trainer, "training_step", remembered_training_step)


class _Repeated:
    """Computes the loss and the gradients of the batches since the last step again.

    Args:
        trainer: runs them through its own ``training_step``, which scales the loss as for the first time.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._batches: list[tuple[Any, Any, Any, Any]] = []
        self._step = -1
        self._repeating = False

    def add(self, model: Any, inputs: Any, args: Any, kwargs: Any) -> None:
        """Remember a batch, unless it is repeated; the first one after a step forgets those before."""
        if self._repeating:
            return
        if self._step != self._trainer.state.global_step:
            self._step = self._trainer.state.global_step
            self._batches.clear()
        self._batches.append((model, inputs, args, kwargs))

    def __call__(self) -> float:
        """Zero the gradients, compute them anew, clip them as the Trainer does, and return the loss."""
        trainer = self._trainer
        trainer.optimizer.optimizer.zero_grad()
        total = 0.0
        self._repeating = True
        try:
            for model, inputs, args, kwargs in self._batches:
                with torch.enable_grad():
                    total += float(trainer.training_step(model, inputs, *args, **kwargs))
        finally:
            self._repeating = False
        largest = trainer.args.max_grad_norm
        if largest is not None and largest > 0:
            trainer.accelerator.clip_grad_norm_(self._batches[-1][0].parameters(), largest)
        return total
