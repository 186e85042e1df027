"""GaLore: Adam and Adafactor on low-rank projections of gradients. Source: arXiv 2403.03507, Algorithms 1 and 2.

Adafactor is arXiv 1804.04235, Algorithms 4 and 5; the 8-bit moments are arXiv 2110.02861.

Projections are state, since they come from a gradient that is gone; the weight is updated by a product, so no update
of its size exists. Where processes share a parameter, its owner steps it whole. A gradient that is not finite makes its
projection NaN, as it spoils weights in torch: the decomposition itself would raise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from anyoptim.engines.arithmetic import wide
from anyoptim.engines.low_rank import (
    LowRank,
    Side,
    adam_direction,
    add_projected_back,
    correction,
    decay,
    plain_adamw,
    project,
    sides,
    svd,
)
from anyoptim.engines.quantized import codebook, dequantize, quantize

_SMALLEST = 4096
_SIGNED = {"exp_avg": True, "exp_avg_sq": False}
_BOTH: tuple[Side, Side] = ("left", "right")


class GaLore(LowRank):
    """What GaLore is around an inner optimizer: singular vectors of a gradient, renewed now and then.

    State of a matrix: ``projection_left`` (..., m, r) or ``projection_right`` (..., r, n), or both with
    ``proj_type="full"``, beside what the inner optimizer keeps of the projected gradient.
    """

    foreign_state = ("projector", "galore_torch")
    target_defaults = MappingProxyType({"update_proj_gap": 200, "scale": 0.25, "proj_type": "std"})

    @staticmethod
    def projections(group: dict[str, Any], state: dict[str, Any], gradient: Tensor) -> dict[Side, Tensor]:
        """Return this step's projections, made anew from ``gradient`` every ``update_proj_gap`` steps."""
        if state.setdefault("step", 0) % group["update_proj_gap"] == 0:
            made = svd(gradient, group["rank"], sides(group["proj_type"], gradient))
            state.update({f"projection_{side}": projection for side, projection in made.items()})
        return {side: state[f"projection_{side}"] for side in _BOTH if f"projection_{side}" in state}


class GaLoreAdamW(GaLore):
    """AdamW on the projected gradient in groups that have a ``rank``, AdamW on the others.

    A matrix G of shape (m, n), or each of the matrices of a stack (E, m, n), is projected to R of shape
    (m, r) if m >= n, else (r, n) (``proj_type="std"``). Adam's direction for R, projected back and times
    ``scale``, is the update.

    State of a parameter: ``exp_avg`` and ``exp_avg_sq``, of R's shape and the parameter's dtype, and ``step``; of a
    matrix the projections as well. With ``optim_bits=8`` moments are in fp32, or in 8 bits where they have at least
    4096 elements: then codes (uint8) with ``exp_avg_absmax`` and ``exp_avg_sq_absmax``, one fp32 for each
    block of 256.

    Args:
        params: parameters or param groups. A group with ``rank`` may set ``update_proj_gap`` (steps between
            new projections), ``scale`` (multiplies the update) and ``proj_type`` ("std", "reverse_std",
            "left", "right", "full").
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to the denominator.
        weight_decay: decoupled, applied after the update.
        correct_bias: Adam's bias correction.
        optim_bits: 32 or 8.

    Raises:
        ValueError: a parameter of a group with ``rank`` is no matrix and no stack of matrices.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
        optim_bits: Literal[8, 32] = 32,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "correct_bias": correct_bias,
            "optim_bits": optim_bits,
        }
        super().__init__(params, defaults)
        self._codebooks: dict[tuple[str, torch.device], Tensor] = {}

    def update_plain(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        """AdamW's step; see :class:`LowRank`."""
        state = self.state[parameter]
        if group["optim_bits"] == 32:
            plain_adamw(group, state, parameter, gradient)
            return
        direction = self._direction(group, state, gradient)
        weight = parameter.detach()
        weight.add_(direction, alpha=-group["lr"] * correction(group, state["step"]))
        decay(group, weight)

    def update_projected(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        """GaLore's step; see :class:`LowRank`."""
        state = self.state[parameter]
        projections = self.projections(group, state, gradient)
        direction = self._direction(group, state, project(gradient, projections))
        weight = parameter.detach()
        rate = group["lr"] * correction(group, state["step"])
        add_projected_back(weight, direction, projections, alpha=-rate * group["scale"])
        decay(group, weight)

    def _direction(self, group: dict[str, Any], state: dict[str, Any], gradient: Tensor) -> Tensor:
        """Count the step, advance the moments and return m / (sqrt(v) + eps)."""
        state["step"] = state.get("step", 0) + 1
        small = gradient.numel() < _SMALLEST
        if group["optim_bits"] == 8:
            gradient = gradient.to(wide(gradient.dtype))
        if "exp_avg" not in state:
            for name in _SIGNED:
                state[name] = torch.zeros_like(gradient, memory_format=torch.contiguous_format)
        if group["optim_bits"] == 32 or small:
            return adam_direction(gradient, state["exp_avg"], state["exp_avg_sq"], group)
        moments = {name: self._moment(state, name).to(gradient.dtype) for name in _SIGNED}
        direction = adam_direction(gradient, **moments, group=group)
        for name, moment in moments.items():
            state[name], state[f"{name}_absmax"] = quantize(moment, self._codebook(name, moment.device))
        return direction

    def _moment(self, state: dict[str, Any], name: str) -> Tensor:
        held: Tensor = state[name]
        if held.is_floating_point():  # the first step's zeros
            return held
        return dequantize(held, state[f"{name}_absmax"], self._codebook(name, held.device))

    def _codebook(self, name: str, device: torch.device) -> Tensor:
        if (name, device) not in self._codebooks:
            self._codebooks[name, device] = codebook(_SIGNED[name], device)
        return self._codebooks[name, device]


class GaLoreAdafactor(GaLore):
    """Adafactor on the projected gradient in groups that have a ``rank``, Adafactor on the others.

    A matrix G of shape (m, n), or each of the matrices of a stack (E, m, n), is projected to R of shape
    (m, r) if m >= n, else (r, n) (``proj_type="std"``). Adafactor's update for R, projected back and times
    ``scale``, is the update.

    State, all at least fp32: ``step``; ``exp_avg_sq_row`` and ``exp_avg_sq_col``, the means of R's squares over the
    last and the last but one dimension, or ``exp_avg_sq`` of a vector; with ``beta1`` ``exp_avg`` of R's shape.

    Args:
        params: parameters or param groups. A group with ``rank`` may set ``update_proj_gap`` (steps between
            new projections), ``scale`` (multiplies the update) and ``proj_type`` ("std", "reverse_std",
            "left", "right", "full").
        lr: learning rate.
        eps: added to the squared gradient; lower bound of a parameter's RMS.
        clip_threshold: RMS at which the update for R is clipped.
        decay_rate: the second moment decays by ``1 - step ** decay_rate``.
        beta1: decay rate of the first moment; ``None``: there is none.
        weight_decay: decoupled, applied before the update.
        scale_parameter: multiply the learning rate by the parameter's RMS.

    Raises:
        ValueError: a parameter of a group with ``rank`` is no matrix and no stack of matrices.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "eps": eps,
            "clip_threshold": clip_threshold,
            "decay_rate": decay_rate,
            "beta1": beta1,
            "weight_decay": weight_decay,
            "scale_parameter": scale_parameter,
        }
        super().__init__(params, defaults)

    def update_plain(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        """Adafactor's step; see :class:`LowRank`."""
        state, weight = self.state[parameter], parameter.detach().to(wide(parameter.dtype))
        rate = _rate(group, weight, dims=None)
        update = _direction(group, state, gradient.to(weight.dtype), rate, dims=None)
        _decay_before(group, weight, rate)
        weight.sub_(update)
        _write(weight, parameter)

    def update_projected(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        """GaLore's step; see :class:`LowRank`."""
        state, weight = self.state[parameter], parameter.detach().to(wide(parameter.dtype))
        gradient = gradient.to(weight.dtype)
        projections = self.projections(group, state, gradient)
        rate = _rate(group, weight, dims=(-2, -1))
        update = _direction(group, state, project(gradient, projections), rate, dims=(-2, -1))
        _decay_before(group, weight, rate)
        add_projected_back(weight, update, projections, alpha=-group["scale"])
        _write(weight, parameter)


def _direction(
    group: dict[str, Any], state: dict[str, Any], gradient: Tensor, rate: Tensor | float, dims: tuple[int, int] | None
) -> Tensor:
    """Count the step, advance the moments and return Adafactor's clipped update at ``rate``."""
    state["step"] = state.get("step", 0) + 1
    squared = gradient.square().add_(group["eps"][0])
    if gradient.dim() > 1:
        moments = {"exp_avg_sq_row": squared.mean(dim=-1), "exp_avg_sq_col": squared.mean(dim=-2)}
    else:
        moments = {"exp_avg_sq": squared}
    for name, moment in moments.items():
        if name not in state:
            state[name] = torch.zeros_like(moment)
        state[name].lerp_(moment, state["step"] ** group["decay_rate"])
    if gradient.dim() > 1:
        row, column = state["exp_avg_sq_row"], state["exp_avg_sq_col"]
        row = row / row.mean(dim=-1, keepdim=True)
        update: Tensor = (gradient * row.rsqrt().unsqueeze(-1)).mul_(column.rsqrt().unsqueeze(-2))
    else:
        update = gradient * state["exp_avg_sq"].rsqrt()
    factor: Tensor = rate / (_rms(update, dims) / group["clip_threshold"]).clamp(min=1.0)
    update = update * factor
    if group["beta1"] is None:
        return update
    if "exp_avg" not in state:
        state["exp_avg"] = torch.zeros_like(update)
    first: Tensor = state["exp_avg"].lerp_(update, 1 - group["beta1"])
    return first


def _rate(group: dict[str, Any], weight: Tensor, dims: tuple[int, int] | None) -> Tensor | float:
    rate: float = group["lr"]
    if not group["scale_parameter"]:
        return rate
    return _rms(weight, dims).clamp(min=group["eps"][1]) * rate


def _decay_before(group: dict[str, Any], weight: Tensor, rate: Tensor | float) -> None:
    if group["weight_decay"] > 0:
        weight.sub_(weight * (rate * group["weight_decay"]))


def _rms(tensor: Tensor, dims: tuple[int, int] | None) -> Tensor:
    """Return the root of the mean square: 0-d, or with ``dims`` one for each matrix of a stack."""
    count = max(1, tensor.numel()) if dims is None else tensor.shape[-2] * tensor.shape[-1]
    norm: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=dims is not None)
    return norm / math.sqrt(count)


def _write(weight: Tensor, parameter: Tensor) -> None:
    if weight.dtype != parameter.dtype:
        parameter.copy_(weight)
