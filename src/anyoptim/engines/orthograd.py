"""OrthoGrad around an optimizer. Source: arXiv 2501.04697."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim import Optimizer

from anyoptim.engines.arithmetic import wide
from anyoptim.engines.distributed import whole
from anyoptim.engines.stepping import evaluated, step_inside
from anyoptim.engines.wrapper import Wrapper, real


class OrthoGrad(Wrapper):
    """OrthoGrad: only the part of a gradient that is orthogonal to its weight, at the gradient's norm.

    Source: arXiv 2501.04697, section 5 (the gradient without its component along the weight, rescaled).

    Args:
        optimizer: steps with what is left of the gradients.
        eps: added to the squared norm of a weight and to the norm of what is left.
    """

    name = "orthograd"

    def __init__(self, optimizer: Optimizer, eps: float = 1e-30) -> None:
        super().__init__(optimizer, eps=eps)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch has overloads
        """Project every gradient, then let the inner optimizer step.

        Args:
            closure: computes the loss again and returns it.
        """
        loss = evaluated(closure)
        for group, parameter in self.with_gradients():
            gradient, eps = parameter.grad, group["orthograd_eps"]
            assert gradient is not None
            dtype = wide(parameter.dtype)
            weight, full = real(parameter.detach().to(dtype)), real(gradient.to(dtype))
            along = whole((weight * full).sum()) / (whole((weight * weight).sum()) + eps)
            left = full - along * weight
            left.mul_(whole(torch.linalg.vector_norm(full)) / (whole(torch.linalg.vector_norm(left)) + eps))
            real(gradient).copy_(left)
        step_inside(self.optimizer)
        return loss
