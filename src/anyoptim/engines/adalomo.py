"""AdaLomo: low-memory optimization with an adaptive learning rate. Source: arXiv 2310.10195, Algorithm 1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from anyoptim.engines.backward_update import BackwardUpdate


class AdaLomo(BackwardUpdate):
    """LOMO with a factored second moment and grouped update normalization.

    Per parameter of shape (..., m, n) the state is ``exp_avg_sq_row`` (..., m), ``exp_avg_sq_col``
    (..., n) and ``step``; of a vector, ``exp_avg_sq`` and ``step``; all fp32. The update is
    ``u = g / sqrt(v)``, divided by its RMS where that exceeds ``clip_threshold``, times
    ``lr * max(eps[1], RMS(parameter))``.

    Args:
        params: parameters or param groups.
        lr: learning rate, relative to the RMS of each parameter.
        eps: added to the squared gradient; lower bound of a parameter's RMS.
        clip_threshold: RMS at which an update is clipped.
        decay_rate: the second moment decays by ``1 - step ** decay_rate``.
        clip_grad_value: clamp every gradient element to ``[-clip_grad_value, clip_grad_value]``.
        weight_decay: decoupled, scaled like the update.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        clip_grad_value: float | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "eps": eps,
                "clip_threshold": clip_threshold,
                "decay_rate": decay_rate,
                "clip_grad_value": clip_grad_value,
                "weight_decay": weight_decay,
            },
        )

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Apply one step; see :class:`BackwardUpdate`."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            if parameter.dim() > 1:
                state["exp_avg_sq_row"] = gradient.new_zeros(parameter.shape[:-1])
                state["exp_avg_sq_col"] = gradient.new_zeros(parameter.shape[:-2] + parameter.shape[-1:])
            else:
                state["exp_avg_sq"] = torch.zeros_like(gradient)
        state["step"] += 1
        # beta of the paper as a tensor: no host sync per parameter
        new = state["step"].pow(group["decay_rate"])
        squared = gradient.square().add_(group["eps"][0])
        if parameter.dim() > 1:
            row, column = state["exp_avg_sq_row"], state["exp_avg_sq_col"]
            row.lerp_(squared.mean(dim=-1), new)
            column.lerp_(squared.mean(dim=-2), new)
            row_factor = (row / row.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
            direction = gradient * row_factor * column.rsqrt().unsqueeze(-2)
        else:
            state["exp_avg_sq"].lerp_(squared, new)
            direction = gradient * state["exp_avg_sq"].rsqrt()
        direction /= (_rms(direction) / group["clip_threshold"]).clamp_(min=1.0)
        weights = parameter.float()
        rate = group["lr"] * _rms(weights).clamp_(min=group["eps"][1])
        weights.mul_(1 - rate * group["weight_decay"]).sub_(direction.mul_(rate))
        if weights is not parameter:
            parameter.copy_(weights)


def _rms(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt_()
