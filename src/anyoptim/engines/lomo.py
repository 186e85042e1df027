"""LOMO: low-memory optimization. Source: arXiv 2306.09782, Algorithm 1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from anyoptim.engines.backward_update import BackwardUpdate
from anyoptim.engines.engine import wide


class Lomo(BackwardUpdate):
    """SGD with decoupled weight decay inside the backward pass: no gradients kept, no optimizer state.

    Args:
        params: parameters or param groups.
        lr: learning rate.
        clip_grad_value: clamp every gradient element to ``[-clip_grad_value, clip_grad_value]``.
        weight_decay: a step multiplies the weights by ``1 - lr * weight_decay``.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        clip_grad_value: float | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "clip_grad_value": clip_grad_value, "weight_decay": weight_decay})

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Apply one step; see :class:`BackwardUpdate`."""
        weights = parameter.to(wide(parameter.dtype))
        if group["weight_decay"] > 0:
            weights.mul_(1 - group["lr"] * group["weight_decay"])
        weights.add_(gradient, alpha=-group["lr"])
        if weights is not parameter:
            parameter.copy_(weights)
