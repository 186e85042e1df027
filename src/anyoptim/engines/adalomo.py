"""AdaLomo: low-memory optimization with an adaptive learning rate. Source: arXiv 2310.10195, Algorithm 1."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from anyoptim.engines.arithmetic import take_gradient, wide
from anyoptim.engines.distributed import mean, whole
from anyoptim.engines.engine import Engine


class AdaLomo(Engine):
    """LOMO with a factored second moment and grouped update normalization; meant for ``FusedBackward(AdaLomo(...))``.

    Per parameter of shape (..., m, n) the state is ``exp_avg_sq_row`` (..., m), ``exp_avg_sq_col``
    (..., n) and ``step``; of a vector, ``exp_avg_sq`` and ``step``; all at least fp32. The update is
    ``u = g / sqrt(v)``, divided by its RMS where that exceeds ``clip_threshold``, times
    ``lr * max(eps[1], RMS(parameter))``. A step takes the gradient off the parameter to use its memory.

    Args:
        params: parameters or param groups.
        lr: learning rate, relative to the RMS of each parameter.
        eps: added to the squared gradient; lower bound of a parameter's RMS.
        clip_threshold: RMS at which an update is clipped.
        decay_rate: the second moment decays by ``1 - step ** decay_rate``.
        clip_grad_value: clamp every gradient element to ``[-clip_grad_value, clip_grad_value]``.
        weight_decay: decoupled, scaled like the update.
    """

    takes_complex: ClassVar[bool] = True

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

    def update_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Apply one step; see :class:`Engine`."""
        for parameter in parameters:
            self._update(group, parameter)

    def _update(self, group: dict[str, Any], parameter: Tensor) -> None:
        gradient = take_gradient(parameter, group["clip_grad_value"])
        state = self.state[parameter]
        squared = gradient.abs().square_() if gradient.is_complex() else gradient.square()
        if parameter.dim() > 1:
            moments = {"exp_avg_sq_row": mean(squared, -1), "exp_avg_sq_col": mean(squared, -2)}
        else:
            moments = {"exp_avg_sq": squared}
        del squared  # LOMO's promise is little memory
        if not state:
            state["step"] = 0
            state.update({name: torch.zeros_like(moment) for name, moment in moments.items()})
        state["step"] += 1
        for name, moment in moments.items():
            state[name].lerp_(moment.add_(group["eps"][0]), state["step"] ** group["decay_rate"])
        if parameter.dim() > 1:
            row, column = state["exp_avg_sq_row"], state["exp_avg_sq_col"]
            row = row / mean(row, -1).unsqueeze(-1)
            direction = gradient.mul_(row.rsqrt().unsqueeze(-1)).mul_(column.rsqrt().unsqueeze(-2))
        else:
            direction = gradient.mul_(state["exp_avg_sq"].rsqrt())
        weights = parameter.detach().to(wide(parameter.dtype))
        rate = group["lr"] * _rms(weights).clamp(min=group["eps"][1])
        if group["weight_decay"] > 0:
            weights.mul_(1 - rate * group["weight_decay"])
        weights.sub_(direction.mul_(rate / (_rms(direction) / group["clip_threshold"]).clamp(min=1.0)))
        if weights.dtype != parameter.dtype:
            parameter.copy_(weights)


def _rms(tensor: Tensor) -> Tensor:
    return whole(torch.linalg.vector_norm(tensor)) / math.sqrt(max(1, tensor.numel()))
