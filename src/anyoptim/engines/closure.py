"""An optimizer whose step evaluates the loss again, in a loop that calls ``step()`` without a closure."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from anyoptim.engines.distributed import lay_out_gradient
from anyoptim.engines.facade import Facade
from anyoptim.engines.loading import only_makes_state
from anyoptim.engines.stepping import step_inside
from anyoptim.errors import UnsupportedError


class WithClosure(Facade):
    """Gives each ``step()`` the closure that was put here, unless the caller passes one.

    The Trainer integration puts one here that repeats the batches of the step. A loop of one's own passes a closure
    to ``step``, as torch documents for L-BFGS.

    However often a step evaluates the loss, the model's buffers, such as BatchNorm's running statistics, keep what one
    evaluation makes of them: the first, which may have come before the step.

    Args:
        optimizer: its ``step`` needs a closure.
        model: whose buffers; not kept alive.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module | None = None) -> None:
        super().__init__(optimizer)
        self.closure: Callable[[], float] | None = None
        self._model = None if model is None else weakref.ref(model)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "closure": None, "_model": None}  # they are the original's

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let steps without a closure go on with the gradients that are there, for a while."""
        before, self.closure = self.closure, _nothing_lost
        try:
            yield
        finally:
            self.closure = before

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch has overloads
        """Let the inner optimizer step.

        Args:
            closure: computes the loss and the gradients again and returns the loss.

        Raises:
            UnsupportedError: there is no closure.
        """
        given = closure or self.closure
        if given is None and only_makes_state(self.optimizer):
            given = _nothing_lost
        if given is None:
            raise UnsupportedError(
                f"{type(self.optimizer).__name__} evaluates the loss again in every step: pass step() a closure that"
                " calls zero_grad(), computes the loss and its gradients, and returns it."
            )

        evaluated = any(each.grad is not None for group in self.param_groups for each in group["params"])

        def recorded() -> float:
            nonlocal evaluated
            before = self._buffers() if evaluated else []
            evaluated = True
            with torch.enable_grad():  # some call the closure where autograd is off
                loss = given()
            for buffer, value in before:
                buffer.copy_(value)
            for group in self.param_groups:
                for parameter in group["params"]:
                    lay_out_gradient(parameter)
            return loss

        return step_inside(self.optimizer, recorded)  # type: ignore[no-any-return]  # a loss

    def _buffers(self) -> list[tuple[Tensor, Tensor]]:
        model = None if self._model is None else self._model()
        return [] if model is None else [(each, each.detach().clone()) for each in model.buffers()]


def _nothing_lost() -> float:
    return 0.0
