"""A cautious optimizer around another one. Source: arXiv 2411.16085."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim import Optimizer

from anyoptim.engines.distributed import whole
from anyoptim.engines.stepping import evaluated, step_inside
from anyoptim.engines.wrapper import Wrapper, rate, real


class Cautious(Wrapper):
    """Cautious: of an update, only the elements that agree with the gradient's sign, scaled up for the others.

    Weight decay is decoupled and applied to all elements, whatever kind the inner optimizer's is, by the rate that it
    steps with.

    Source: arXiv 2411.16085, Algorithm 1.

    Args:
        optimizer: proposes the updates.
        eps: least share of elements that agree, which the others are divided by.
    """

    name = "cautious"

    def __init__(self, optimizer: Optimizer, eps: float = 1e-3) -> None:
        super().__init__(optimizer, eps=eps)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch has overloads
        """Let the inner optimizer step, and take back what goes against the gradient.

        Args:
            closure: computes the loss again and returns it.
        """
        loss = evaluated(closure)
        decays = [group.get("weight_decay") for group in self.param_groups]
        held = []
        for group, parameter in self.with_gradients():
            if group.get("weight_decay"):
                parameter.mul_(1 - rate(group) * group["weight_decay"])
            assert parameter.grad is not None
            # the inner step may overwrite the gradient
            before, gradient = parameter.detach().clone(), parameter.grad.detach().clone()
            held.append((real(parameter.detach()), real(before), real(gradient), group["cautious_eps"]))
        for group in self.param_groups:
            if group.get("weight_decay"):
                group["weight_decay"] = 0.0
        try:
            step_inside(self.optimizer)
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                if decay is not None:
                    group["weight_decay"] = decay
        for weight, before, gradient, eps in held:
            update = weight - before
            agrees = (update * gradient < 0).to(update.dtype)
            share = whole(agrees.mean()).clamp(min=eps)
            weight.copy_(before + update * agrees / share)
        return loss
