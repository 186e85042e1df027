"""Closures for the Trainer: optimizers that evaluate the loss again repeat the batches of the step.

transformers calls ``step()`` without a closure. ``Trainer.training_step`` sees every batch, prepares it, scales the
loss and runs the backward pass: doing all but the preparing again for the batches since the last step is the closure
that a person would write. What a subclass does around it, such as counting steps, and what it does to prepare a batch,
such as generating one, has been done, and is not done again.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from anyoptim.engines.closure import WithClosure
from anyoptim.integrations.patching import replace


def wrap_closures(undo: ExitStack) -> None:
    """Wrap ``Trainer.training_step``, which sees every batch, for optimizers that need a closure."""
    from transformers import Trainer

    training_step: Callable[..., Any] = Trainer.training_step

    @functools.wraps(training_step)
    def remembered_training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        if not isinstance(optimizer, WithClosure):
            return training_step(self, *args, **kwargs)
        if not isinstance(optimizer.closure, _Repeated):
            optimizer.closure = _Repeated(self, training_step)
        return optimizer.closure.first(args, kwargs)

    replace(undo, Trainer, "training_step", remembered_training_step)


@dataclass
class _Batch:
    """What one call of ``training_step`` got, and what it made of the inputs before it computed the loss."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    prepared: Any = None

    @property
    def model(self) -> Any:
        return self.args[0] if self.args else self.kwargs["model"]

    def prepared_again(self, _: Any) -> Any:
        """Stand for the preparing, which was done."""
        return copy.copy(self.prepared)


class _Repeated:
    """Computes the loss and the gradients of the batches since the last step again.

    Args:
        trainer: whose steps they are.
        training_step: ``Trainer.training_step`` itself, which scales the loss as for the first time.
    """

    def __init__(self, trainer: Any, training_step: Callable[..., Any]) -> None:
        self._trainer = trainer
        self._training_step = training_step
        self._batches: list[_Batch] = []
        self._step = -1

    def first(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run a batch for the first time and remember it; the first one after a step forgets those before."""
        if self._step != self._trainer.state.global_step:
            self._step = self._trainer.state.global_step
            self._batches.clear()
        batch = _Batch(args, kwargs)
        self._batches.append(batch)
        prepare = self._trainer._prepare_inputs

        def prepare_and_keep(inputs: Any) -> Any:
            prepared = prepare(inputs)
            batch.prepared = copy.copy(prepared)  # computing a loss may take labels out of it
            return prepared

        return self._run(batch, prepare_and_keep)

    def __call__(self) -> float:
        """Zero the gradients, compute them anew, clip them as the Trainer does, and return the loss."""
        trainer = self._trainer
        trainer.optimizer.optimizer.zero_grad()
        total = 0.0
        for batch in self._batches:
            with torch.enable_grad():
                total += float(self._run(batch, batch.prepared_again))
        largest = trainer.args.max_grad_norm
        if largest is not None and largest > 0:
            trainer.accelerator.clip_grad_norm_(self._batches[-1].model.parameters(), largest)
        return total

    def _run(self, batch: _Batch, prepare: Callable[[Any], Any]) -> Any:
        with ExitStack() as run:
            replace(run, self._trainer, "_prepare_inputs", prepare)
            return self._training_step(self._trainer, *batch.args, **batch.kwargs)
