"""Low-rank projections of gradients: what APOLLO and GaLore share.

Source: GaLore, arXiv 2403.03507, Algorithms 1 and 2, whose convention for the projected side APOLLO follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from anyoptim.engines.arithmetic import adamw, bias_correction, wide
from anyoptim.engines.distributed import like, local, reduced, whole
from anyoptim.engines.engine import Engine

Side = Literal["left", "right"]
"""A matrix (..., m, n) is projected from the left by (..., m, r), from the right by (..., r, n)."""


class LowRank(Engine):
    """An engine that projects the matrices of groups that have a ``rank``, and treats the others as they are."""

    target_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """What a group with ``rank`` gets for keys it lacks."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with the defaults of a target's keys where it has a ``rank``."""
        if "rank" not in param_group:
            super().add_param_group(param_group)
            return
        super().add_param_group({**self.target_defaults, **param_group})
        flat = [parameter for parameter in self.param_groups[-1]["params"] if parameter.dim() < 2]
        if flat:
            self.param_groups.pop()
            raise ValueError(f"a parameter of shape {tuple(flat[0].shape)} is no matrix: leave rank out of its group")

    def update_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Apply one step; see :class:`Engine`."""
        for parameter in parameters:
            assert parameter.grad is not None
            if "rank" not in group:
                self.update_plain(group, parameter, parameter.grad)
            elif parameter.numel():
                self.update_projected(group, parameter, parameter.grad)

    def update_plain(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        """Update a parameter of a group without ``rank``."""
        raise NotImplementedError

    def update_projected(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        """Update a matrix, or each matrix of a stack (..., m, n), of a group with ``rank``."""
        raise NotImplementedError


def sides(proj_type: str, gradient: Tensor) -> tuple[Side, ...]:
    """Return the sides that a gradient is projected from.

    Args:
        proj_type: "std" shortens the longer side, "reverse_std" the other one; "left", "right"; "full" is both.
        gradient: (..., m, n).
    """
    tall = gradient.shape[-2] >= gradient.shape[-1]
    chosen: dict[str, tuple[Side, ...]] = {
        "left": ("left",),
        "right": ("right",),
        "full": ("left", "right"),
        "std": ("right" if tall else "left",),
        "reverse_std": ("left" if tall else "right",),
    }
    return chosen[proj_type]


def svd(gradient: Tensor, rank: int, sides: Sequence[Side]) -> dict[Side, Tensor]:
    """Return the first ``rank`` singular vectors of each side, replicated; arXiv 2403.03507, equations 12 and 13.

    The decomposition is done in at least fp32. Where a matrix is not finite its vectors are NaN.

    Args:
        gradient: (..., m, n); a DTensor is gathered.
        rank: r, at most min(m, n) of which exist.
        sides: "left" gives (..., m, r), "right" (..., r, n), both of the gradient's dtype.
    """
    matrix = whole(gradient).to(wide(gradient.dtype))
    finite = matrix.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    vectors: dict[Side, Tensor] = {}
    # the decomposition of what is not finite is an exception; a bad gradient should spoil weights, as everywhere
    vectors["left"], _, vectors["right"] = torch.linalg.svd(matrix.where(finite, 0.0), full_matrices=False)
    first = {"left": vectors["left"][..., :rank], "right": vectors["right"][..., :rank, :]}
    return {side: first[side].where(finite, torch.nan).to(gradient.dtype).contiguous() for side in sides}


def project(gradient: Tensor, projections: Mapping[Side, Tensor]) -> Tensor:
    """Return ``left.mT @ gradient @ right.mT``, of what sides there are, with no partial sums pending.

    Args:
        gradient: (..., m, n).
        projections: whole tensors of the gradient's dtype, "left" (..., m, r) and "right" (..., r, n).
    """
    low = gradient
    if "right" in projections:
        low = low @ like(projections["right"], low).mT
    if "left" in projections:
        low = like(projections["left"], low).mT @ low
    return reduced(low)


def add_projected_back(weight: Tensor, low: Tensor, projections: Mapping[Side, Tensor], alpha: float) -> None:
    """Add ``alpha * left @ low @ right`` to a weight, of what sides there are.

    Args:
        weight: (..., m, n), changed in place.
        low: what :func:`project` gives the shape of.
        projections: as in :func:`project`, of the weight's dtype.
        alpha: a factor.
    """
    low = low.to(weight.dtype)
    if "left" in projections:
        first, second = projections["left"], low @ projections["right"] if "right" in projections else low
    else:
        first, second = low, projections["right"]
    if weight.dim() == 2:
        weight.addmm_(first, second, alpha=alpha)
    elif weight.dim() == 3:
        weight.baddbmm_(first, second, alpha=alpha)
    else:
        weight.add_(first @ second, alpha=alpha)


def plain_adamw(group: dict[str, Any], state: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
    """AdamW's step on a parameter that is not projected; the moments have its dtype.

    Args:
        group: has lr, betas, eps, weight_decay and correct_bias.
        state: empty before the first step.
        parameter: of any shape.
        gradient: of that shape.
    """
    if not state:
        state["step"] = 0
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
    state["step"] += 1
    adamw(
        parameter.detach(),
        gradient,
        state["exp_avg"],
        state["exp_avg_sq"],
        lr=group["lr"],
        correction=correction(group, state["step"]),
        betas=group["betas"],
        eps=group["eps"],
    )
    decay(group, local(parameter.detach()))


def adam_direction(gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, group: dict[str, Any]) -> Tensor:
    """Advance the moments in place and return ``m / (sqrt(v) + eps)``, of the gradient's shape and dtype.

    Args:
        gradient: of any shape.
        exp_avg: m, contiguous, of the gradient's shape and dtype.
        exp_avg_sq: v, likewise.
        group: has betas and eps.
    """
    # Adam's step on zero weights, at the rate -1, is the direction itself
    direction = torch.zeros_like(gradient)
    adamw(
        direction,
        gradient,
        exp_avg,
        exp_avg_sq,
        lr=-1.0,
        correction=1.0,
        betas=group["betas"],
        eps=group["eps"],
    )
    return direction


def correction(group: dict[str, Any], step: int) -> float:
    """Return Adam's bias correction as a factor of the learning rate, or 1 where the group wants none."""
    return bias_correction(group["betas"], step) if group["correct_bias"] else 1.0


def decay(group: dict[str, Any], weight: Tensor) -> None:
    """Decay a weight in place, after its update."""
    # not as a product with 1 - lr * weight_decay, whose rounding is the same at every step and adds up
    if group["weight_decay"] > 0:
        weight.add_(weight, alpha=-group["lr"] * group["weight_decay"])
