"""Optimizers around another optimizer, whichever it is: Lookahead, OrthoGrad, Cautious, schedule-free, SAM.

Their state lies beside the inner optimizer's, in its state and groups, so that one state dict holds both.

The packages' own wrappers are no full optimizers (no hooks, state dicts of another shape, groups that nobody shares),
so schedulers, accelerate and checkpoints break on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from anyoptim.engines.engine import refuse_capture, whole, wide
from anyoptim.engines.facade import Facade
from anyoptim.errors import OptimError, UnsupportedError

_SLOW = "slow_weight"
_Z = "z"


class _Wrapper(Facade):
    def _with_gradients(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    yield group, parameter

    def _evaluated(self, closure: Callable[[], float] | None) -> float | None:
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()


class Lookahead(_Wrapper):
    """Lookahead: every ``k`` steps, slow weights go a part of the way to the fast ones, which start there again.

    Source: arXiv 1907.08610, Algorithm 1; the inner optimizer's moments are kept.

    Args:
        optimizer: takes the fast steps.
        k: fast steps for one slow step.
        alpha: the part of the way, from 0 to 1.
    """

    def __init__(self, optimizer: Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        super().__init__(optimizer)
        self.k, self.alpha = k, alpha

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch has overloads
        """Take a fast step, and a slow one when it is time.

        Args:
            closure: computes the loss again and returns it.

        Raises:
            UnsupportedError: a CUDA graph is being captured.
        """
        refuse_capture(self)
        before = {
            parameter: parameter.detach().clone()
            for _, parameter in self._with_gradients()
            if _SLOW not in self.state.get(parameter, {})
        }
        loss = self.optimizer.step(closure)
        for parameter, weight in before.items():
            self.state[parameter][_SLOW] = weight
        for group in self.param_groups:
            group["lookahead_step"] = group.get("lookahead_step", 0) + 1
            if group["lookahead_step"] % self.k:
                continue
            for parameter in group["params"]:
                slow = self.state.get(parameter, {}).get(_SLOW)
                if slow is not None:
                    slow.lerp_(parameter, self.alpha)
                    parameter.copy_(slow)
        return loss


class OrthoGrad(_Wrapper):
    """OrthoGrad: only the part of a gradient that is orthogonal to its weight, at the gradient's norm.

    Source: arXiv 2501.04697, section 5 (the gradient without its component along the weight, rescaled).

    Args:
        optimizer: steps with what is left of the gradients.
        eps: added to the squared norm of a weight and to the norm of what is left.
    """

    def __init__(self, optimizer: Optimizer, eps: float = 1e-30) -> None:
        super().__init__(optimizer)
        self.eps = eps

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch has overloads
        """Project every gradient, then let the inner optimizer step.

        Args:
            closure: computes the loss again and returns it.
        """
        loss = self._evaluated(closure)
        for _, parameter in self._with_gradients():
            gradient = parameter.grad
            assert gradient is not None
            weight, full = parameter.to(wide(parameter.dtype)), gradient.to(wide(parameter.dtype))
            along = whole((weight * full).sum()) / (whole((weight * weight).sum()) + self.eps)
            left = full - along * weight
            left.mul_(whole(torch.linalg.vector_norm(full)) / (whole(torch.linalg.vector_norm(left)) + self.eps))
            gradient.copy_(left)
        self.optimizer.step()
        return loss


class Cautious(_Wrapper):
    """Cautious: of an update, only the elements that agree with the gradient's sign, scaled up for the others.

    Weight decay is decoupled and applied to all elements, whatever kind the inner optimizer's is.

    Source: arXiv 2411.16085, Algorithm 1.

    Args:
        optimizer: proposes the updates.
        eps: least share of elements that agree, which the others are divided by.
    """

    def __init__(self, optimizer: Optimizer, eps: float = 1e-3) -> None:
        super().__init__(optimizer)
        self.eps = eps

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch has overloads
        """Let the inner optimizer step, and take back what goes against the gradient.

        Args:
            closure: computes the loss again and returns it.
        """
        loss = self._evaluated(closure)
        decays = [group.get("weight_decay") for group in self.param_groups]
        held = []
        for group, parameter in self._with_gradients():
            if group.get("weight_decay"):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            assert parameter.grad is not None
            # the inner step may overwrite the gradient
            held.append((parameter, parameter.detach().clone(), parameter.grad.detach().clone()))
        for group in self.param_groups:
            if group.get("weight_decay"):
                group["weight_decay"] = 0.0
        try:
            self.optimizer.step()
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                if decay is not None:
                    group["weight_decay"] = decay
        for parameter, before, gradient in held:
            update = parameter - before
            agrees = (update * gradient < 0).to(update.dtype)
            share = whole(agrees.mean()).clamp(min=self.eps)
            parameter.copy_(before + update * agrees / share)
        return loss


class ScheduleFree(_Wrapper):
    """Schedule-free learning around any optimizer: no schedule; gradients are taken between its weights and an average.

    In training the parameters hold y = (1 - momentum) z + momentum x, where the inner optimizer steps z and x is the
    average that ``eval()`` puts into the parameters. z is kept, x is recomputed.

    Source: arXiv 2405.15682, equations 3 to 5; weights of the average as in schedulefree.ScheduleFreeWrapper.

    Args:
        optimizer: steps z; best without momentum of its own.
        momentum: between z (0) and the average (1).
        weight_lr_power: power of the learning rate in the average's weights.
        r: power of the step in the average's weights.
    """

    def __init__(
        self, optimizer: Optimizer, momentum: float = 0.9, weight_lr_power: float = 2.0, r: float = 0.0
    ) -> None:
        if not 0 < momentum < 1:
            raise ValueError(f"momentum must be in (0, 1), not {momentum}")
        super().__init__(optimizer)
        self.momentum, self.weight_lr_power, self.r = momentum, weight_lr_power, r
        for group in self.param_groups:
            group.update(train_mode=False, schedule_free_step=0, lr_max=0.0, weight_sum=0.0)

    @torch.no_grad()
    def train(self) -> None:
        """Put the training weights y into the parameters."""
        self._turn(to_training=True)

    @torch.no_grad()
    def eval(self) -> None:
        """Put the average x into the parameters."""
        self._turn(to_training=False)

    def _turn(self, *, to_training: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] == to_training:
                continue
            group["train_mode"] = to_training
            for parameter in group["params"]:
                z = self.state.get(parameter, {}).get(_Z)
                if z is not None:  # lerp(end, weight) of y to x, and of x to y
                    parameter.lerp_(z, 1 - self.momentum if to_training else 1 - 1 / self.momentum)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch has overloads
        """Let the inner optimizer step z by the gradient at y, and move the average.

        Args:
            closure: computes the loss again and returns it.

        Raises:
            OptimError: it is in evaluation mode.
            UnsupportedError: a CUDA graph is being captured.
        """
        refuse_capture(self)
        if not all(group["train_mode"] for group in self.param_groups):
            raise OptimError("schedule_free is in evaluation mode; call train() on the optimizer before step().")
        loss = self._evaluated(closure)
        average: dict[Tensor, Tensor] = {}
        for _, parameter in self._with_gradients():
            z = self.state.get(parameter, {}).get(_Z, parameter)
            average[parameter] = parameter.lerp(z, 1 - 1 / self.momentum)
            parameter.copy_(z)
        self.optimizer.step()
        for group in self.param_groups:
            group["schedule_free_step"] += 1
            group["lr_max"] = max(float(group["lr"]), group["lr_max"])
            weight = group["schedule_free_step"] ** self.r * group["lr_max"] ** self.weight_lr_power
            group["weight_sum"] += weight
            share = weight / group["weight_sum"] if group["weight_sum"] else 0.0
            for parameter in group["params"]:
                x = average.pop(parameter, None)
                if x is not None:
                    state = self.state[parameter]
                    state[_Z] = parameter.detach().clone() if _Z not in state else state[_Z].copy_(parameter)
                    x.lerp_(state[_Z], share)
                    parameter.copy_(x.lerp(state[_Z], 1 - self.momentum))
        return loss


class SAM(_Wrapper):
    """SAM: steps by the gradient at the point near the weights where the loss is highest, to first order.

    Source: arXiv 2010.01412, Algorithm 1; ``adaptive``: arXiv 2102.11600, equation 9 (ASAM).

    Args:
        optimizer: steps with the gradients found there.
        rho: how far that point is.
        adaptive: measure the distance relative to each weight.
    """

    def __init__(self, optimizer: Optimizer, rho: float = 0.05, adaptive: bool = False) -> None:
        super().__init__(optimizer)
        self.rho, self.adaptive = rho, adaptive

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
        slopes: dict[Tensor, Tensor] = {}
        for _, parameter in self._with_gradients():
            assert parameter.grad is not None
            slopes[parameter] = parameter.grad * parameter.abs() if self.adaptive else parameter.grad
        norms = [whole(torch.linalg.vector_norm(slope)) for slope in slopes.values()]
        together = [norm.to(norms[0].device) for norm in norms]  # a model may be on several devices
        reach = self.rho / (torch.linalg.vector_norm(torch.stack(together)) + 1e-12) if norms else torch.zeros(())
        before = {parameter: parameter.detach().clone() for parameter in slopes}
        for parameter, slope in slopes.items():
            parameter.add_((slope * parameter.abs() if self.adaptive else slope) * reach.to(slope.device))
        try:
            with torch.enable_grad():
                loss = closure()
        finally:
            for parameter, weight in before.items():
                parameter.copy_(weight)
        self.optimizer.step()
        return loss
