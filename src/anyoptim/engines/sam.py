"""SAM around an optimizer. Source: arXiv 2010.01412."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from anyoptim.engines.distributed import whole
from anyoptim.engines.stepping import step_inside
from anyoptim.engines.wrapper import Wrapper
from anyoptim.errors import UnsupportedError


class SAM(Wrapper):
    """SAM: steps by the gradient at the point near the weights where the loss is highest, to first order.

    Source: arXiv 2010.01412, Algorithm 1; ``adaptive``: arXiv 2102.11600, equation 9 (ASAM).

    Args:
        optimizer: steps with the gradients found there.
        rho: how far that point is.
        adaptive: measure the distance relative to each weight.
    """

    name = "sam"

    def __init__(self, optimizer: Optimizer, rho: float = 0.05, adaptive: bool = False) -> None:
        super().__init__(optimizer, rho=rho, adaptive=adaptive)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch has overloads
        """Climb, evaluate, come back, and let the inner optimizer step.

        Args:
            closure: zeroes the gradients, computes the loss and its gradients, and returns the loss. The gradients
                at the weights themselves are there already.

        Raises:
            UnsupportedError: there is no closure.
        """
        if closure is None:
            raise UnsupportedError("sam evaluates the loss twice in every step: pass step() a closure.")
        held = list(self.with_gradients())
        norms = [whole(torch.linalg.vector_norm(_slope(group, parameter))) for group, parameter in held]
        together = [norm.to(norms[0].device) for norm in norms]  # a model may be on several devices
        norm = torch.linalg.vector_norm(torch.stack(together)) if norms else torch.zeros(())
        before = [parameter.detach().clone() for _, parameter in held]
        for group, parameter in held:
            slope, reach = _slope(group, parameter), group["sam_rho"] / (norm + 1e-12)
            parameter.add_((slope * parameter.abs() if group["sam_adaptive"] else slope) * reach.to(slope.device))
        try:
            with torch.enable_grad():
                loss = closure()
        finally:
            for (_, parameter), weight in zip(held, before, strict=True):
                parameter.copy_(weight)
        step_inside(self.optimizer)
        return loss


def _slope(group: dict[str, Any], parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad * parameter.abs() if group["sam_adaptive"] else parameter.grad
