"""Schedule-free learning around an optimizer. Source: arXiv 2405.15682."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from anyoptim.engines.engine import refuse_capture
from anyoptim.engines.stepping import evaluated, step_inside
from anyoptim.engines.wrapper import Wrapper, rate
from anyoptim.errors import OptimError

_Z = "z"
_START = {"schedule_free_step": 0, "lr_max": 0.0, "weight_sum": 0.0}


class ScheduleFree(Wrapper):
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

    name = "schedule_free"
    state_keys = frozenset({_Z})

    def __init__(
        self, optimizer: Optimizer, momentum: float = 0.9, weight_lr_power: float = 2.0, r: float = 0.0
    ) -> None:
        super().__init__(optimizer, momentum=momentum, weight_lr_power=weight_lr_power, r=r)

    def _complete(self) -> None:
        super()._complete()
        training = any(group.get("train_mode") for group in self.param_groups)
        for group in self.param_groups:
            for key, value in {"train_mode": training, **_START}.items():
                group.setdefault(key, value)

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
            group["train_mode"], momentum = to_training, group["schedule_free_momentum"]
            for parameter in group["params"]:
                z = self.state.get(parameter, {}).get(_Z)
                if z is not None:  # lerp(end, weight) of y to x, and of x to y
                    parameter.lerp_(z, 1 - momentum if to_training else 1 - 1 / momentum)

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
        if torch.compiler.is_compiling() and self.starts(_Z):
            return self.step_uncompiled(closure)  # type: ignore[no-any-return]  # torch's decorator
        if not all(group["train_mode"] for group in self.param_groups):
            raise OptimError("schedule_free is in evaluation mode; call train() on the optimizer before step().")
        loss = evaluated(closure)
        average: dict[Tensor, Tensor] = {}
        for group, parameter in self.with_gradients():
            z = self.state.get(parameter, {}).get(_Z, parameter)
            average[parameter] = parameter.lerp(z, 1 - 1 / group["schedule_free_momentum"])
            parameter.copy_(z)
        step_inside(self.optimizer)
        for group in self.param_groups:
            group["schedule_free_step"] += 1
            group["lr_max"] = max(float(rate(group)), group["lr_max"])
            weight = group["lr_max"] ** group["schedule_free_weight_lr_power"]
            weight *= group["schedule_free_step"] ** group["schedule_free_r"]
            group["weight_sum"] += weight
            share = weight / group["weight_sum"] if group["weight_sum"] else 0.0
            for parameter in group["params"]:
                x = average.pop(parameter, None)
                if x is not None:
                    state = self.state[parameter]
                    state[_Z] = parameter.detach().clone() if _Z not in state else state[_Z].copy_(parameter)
                    x.lerp_(state[_Z], share)
                    parameter.copy_(x.lerp(state[_Z], 1 - group["schedule_free_momentum"]))
        return loss
