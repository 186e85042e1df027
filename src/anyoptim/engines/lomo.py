"""LOMO: low-memory optimization. Source: arXiv 2306.09782, Algorithm 1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor

from anyoptim.engines.arithmetic import take_gradient, wide
from anyoptim.engines.engine import Engine
from anyoptim.engines.loading import of_every_parameter, of_those_with_state


class Lomo(Engine):
    """SGD with decoupled weight decay and no state; ``FusedBackward(Lomo(...))`` keeps no gradients either.

    The arithmetic is at least fp32, and a step takes the gradient off the parameter to use its memory.

    Args:
        params: parameters or param groups, of any floating dtype.
        lr: learning rate.
        clip_grad_value: clamp every gradient element to ``[-clip_grad_value, clip_grad_value]``.
        weight_decay: a step multiplies the weights by ``1 - lr * weight_decay``.
    """

    takes_complex: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        clip_grad_value: float | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "clip_grad_value": clip_grad_value, "weight_decay": weight_decay})

    def state_dict(self) -> dict[str, Any]:
        """Return the groups, with an empty entry for each parameter."""
        return of_every_parameter(self, super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the groups."""
        super().load_state_dict(of_those_with_state(state_dict))

    def update_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Apply one step; see :class:`Engine`."""
        for parameter in parameters:
            gradient = take_gradient(parameter, group["clip_grad_value"])
            weights = parameter.detach().to(wide(parameter.dtype))
            if group["weight_decay"] > 0:
                weights.mul_(1 - group["lr"] * group["weight_decay"])
            weights.add_(gradient, alpha=-group["lr"])
            if weights.dtype != parameter.dtype:
                parameter.copy_(weights)
