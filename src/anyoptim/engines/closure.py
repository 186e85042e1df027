"""An optimizer whose step evaluates the loss again, in a loop that calls ``step()`` without a closure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.optim import Optimizer

from anyoptim.engines.facade import Facade
from anyoptim.errors import UnsupportedError


class WithClosure(Facade):
    """Gives each ``step()`` the closure that was put here, unless the caller passes one.

    The Trainer integration puts one here that repeats the batches of the step. A loop of one's own passes a closure
    to ``step``, as torch documents for L-BFGS.

    Args:
        optimizer: its ``step`` needs a closure.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer)
        self.closure: Callable[[], float] | None = None

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let steps without a closure go on with the gradients that are there, for a while."""
        before, self.closure = self.closure, lambda: 0.0
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
        if given is None:
            raise UnsupportedError(
                f"{type(self.optimizer).__name__} evaluates the loss again in every step: pass step() a closure that"
                " calls zero_grad(), computes the loss and its gradients, and returns it."
            )

        def recorded() -> float:  # some call the closure where autograd is off
            with torch.enable_grad():
                return given()

        return self.optimizer.step(recorded)
