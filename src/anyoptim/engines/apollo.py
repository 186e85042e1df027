"""APOLLO: gradients scaled as a low-rank AdamW would scale them. Source: arXiv 2412.05270, Algorithm 1.

The norm-growth limiter is equation 4 of that paper (Fira, arXiv 2410.01623).

A projection is its seed: each matrix is seeded by its place among the parameters, as in apollo-torch, so up to the
first renewal both project alike; or by its name where groups have names (torch's ``param_names``), on which ranks
agree that hold different parameters: stages of a pipeline, partitions of ZeRO. A renewal adds a constant, so that a
resumed run has no chain to replay. Drawing costs about a seventh of a step at rank 128; ``keep_projection`` holds the
projection instead.

The published limiter lets an update grow by 1 % a step from the last one's norm, which is never after a step of exact
zeros (LoRA's A beside B = 0, an expert without tokens). Here the norm before is kept: the one place where this is not
upstream's to the last digits.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from anyoptim.engines.arithmetic import CACHED, cached, wide
from anyoptim.engines.distributed import like, local, part, whole
from anyoptim.engines.low_rank import (
    LowRank,
    Side,
    adam_direction,
    correction,
    decay,
    plain_adamw,
    project,
    sides,
    svd,
)
from anyoptim.engines.on_shards import stood_for
from anyoptim.engines.stepping import original_of

_TINY = 1e-8
_GROWTH = 1.01
_RENEWED = 1_000_003  # between the seeds of one matrix's projections: more than a model has matrices


class APOLLOAdamW(LowRank):
    """APOLLO on the groups that have a ``rank``, AdamW on the others.

    A matrix G of shape (m, n), or each of the matrices of a stack (E, m, n), is projected to R of shape
    (m, r) if m >= n, else (r, n) (``proj_type="std"``). Adam's step on R gives one factor per channel, the
    rows or columns that R keeps, or one per tensor; G times these factors is the update.

    State of a matrix: ``exp_avg`` and ``exp_avg_sq`` of R's shape and the parameter's dtype, ``step``,
    ``seed``, and ``update_norm`` (fp32, one per matrix; the limiter's). A random projection is made
    anew from its seed at each step; ``projection`` is in the state only for svd, which needs the
    gradient it came from, and with ``keep_projection``.

    Passes over matrix-sized memory in a step: 5. G is read three times (projection, channel norms,
    update) and the weight is read and written once; 2 more where it decays. The limiter's norm comes
    from the channel norms, so the scaled gradient never exists. Nothing waits for the device.

    A gradient of zeros leaves the limiter's norm as it was: from a norm of zero no update could grow.

    Args:
        params: parameters or param groups. A group with ``rank`` may set ``proj`` ("random" or "svd"),
            ``scale_type`` ("channel" or "tensor"), ``scale`` (its square root multiplies the update),
            ``update_proj_gap`` (steps between new projections), ``proj_type`` ("std", "reverse_std",
            "left", "right") and ``keep_projection`` (hold a random projection, for speed).
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to the denominator.
        weight_decay: decoupled, applied after the update.
        correct_bias: Adam's bias correction.
        scale_front: apply ``scale`` before the limiter.
        disable_nl: switch the norm-growth limiter off.

    Raises:
        ValueError: a parameter of a group with ``rank`` is no matrix and no stack of matrices.
    """

    foreign_state = ("projector", "apollo_torch")
    target_defaults = MappingProxyType(
        {
            "proj": "random",
            "scale_type": "channel",
            "scale": 1.0,
            "update_proj_gap": 200,
            "proj_type": "std",
            "keep_projection": False,
        }
    )

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
        scale_front: bool = False,
        disable_nl: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "correct_bias": correct_bias,
            "scale_front": scale_front,
            "disable_nl": disable_nl,
        }
        super().__init__(params, defaults)
        self._seeds: dict[Tensor, int] = {}

    def update_plain(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        """AdamW's step; see :class:`LowRank`."""
        plain_adamw(group, self.state[parameter], parameter, gradient)

    def _seed(self, parameter: Tensor) -> int:
        """Return a new matrix's seed: from its name, or its place among all parameters, from 1."""
        parameter = stood_for(parameter)
        held = self._seeds.get(parameter)
        if held is not None:
            return held
        # at the first step, and when groups were added or FSDP2 replaced parameters
        places = itertools.count(1)
        groups = original_of(self).param_groups
        seeds = {each: next(places) for group in groups for each in group["params"]}
        for group in groups:
            names = group.get("param_names", ())
            if len(names) == len(group["params"]):  # ZeRO leaves all names to a part of the parameters
                seeds.update(zip(group["params"], (zlib.crc32(name.encode()) for name in names), strict=True))
        self._seeds.clear()  # filled and not replaced: torch 2.11 compiles no step that sets an attribute
        self._seeds.update(seeds)
        return seeds[parameter]

    def update_projected(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        """APOLLO's step; see :class:`LowRank`."""
        state = self.state[parameter]
        if not state:
            state.update(step=0, seed=self._seed(parameter))
        (side,) = sides(group["proj_type"], gradient)
        low = project(gradient, {side: self._projection(group, state, gradient, side)})
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(low), torch.zeros_like(low)
            # no limit at the first step, without a branch: any norm is below infinity's
            state["update_norm"] = torch.full(
                (*low.shape[:-2], 1, 1), math.inf, dtype=wide(low.dtype), device=low.device
            )
        state["step"] += 1

        direction = adam_direction(low, state["exp_avg"], state["exp_avg_sq"], group)
        # a channel is a row where columns were projected, else a column
        over = -1 if side == "right" else -2
        dims = (over,) if group["scale_type"] == "channel" else (-2, -1)
        factor = _norm(direction, dims) / (_norm(low, dims) + _TINY)
        root = math.sqrt(group["scale"])
        if group["scale_front"]:
            factor = factor * root
        if not group["disable_nl"]:
            norm = whole((factor * _norm(gradient, dims)).square().sum(dim=(-2, -1), keepdim=True)).sqrt()
            limiter = (norm / (state["update_norm"] + _TINY)).clamp(min=_GROWTH) / _GROWTH
            # a gradient of zeros, as of an expert without tokens, is no reference: nothing could grow from it
            state["update_norm"] = torch.where(norm > 0, norm / limiter, state["update_norm"])
            factor = factor / like(limiter, factor)
        if not group["scale_front"]:
            factor = factor * root
        factor = factor * (-group["lr"] * correction(group, state["step"]))

        weight = local(parameter.detach())
        once = [dim for dim in (-2, -1) if factor.shape[dim] == 1]
        weight.addcmul_(local(gradient), part(factor, parameter, *once))
        decay(group, weight)

    def _projection(self, group: dict[str, Any], state: dict[str, Any], gradient: Tensor, side: Side) -> Tensor:
        """Return the projection of this step: (..., r, n) for the right side, (..., m, r) for the left."""
        renew = state["step"] % group["update_proj_gap"] == 0
        held: Tensor | None = state.get("projection")
        if held is not None and not renew:
            return held
        if group["proj"] == "svd":
            made = svd(gradient, group["rank"], [side])[side]
        else:
            seed = state["seed"] + state["step"] // group["update_proj_gap"] * _RENEWED
            made = random_projection(gradient, group["rank"], side, seed)
        if group["proj"] == "svd" or group["keep_projection"]:
            state["projection"] = made
        return made


def random_projection(gradient: Tensor, rank: int, side: Side, seed: int) -> Tensor:
    """Return a Gaussian projection of variance 1/rank for a gradient, drawn on its device from a seed.

    Args:
        gradient: (..., m, n); its device and dtype are the projection's.
        rank: r.
        side: "right" gives (..., r, n), "left" (..., m, r).
        seed: any integer below 2**32; the stack of a gradient is drawn from one seed.
    """
    *stack, rows, columns = gradient.shape
    shape = [*stack, rank, columns] if side == "right" else [*stack, rows, rank]
    drawn: Tensor = _drawn(shape, seed % 2**32, gradient.device, rank)
    return drawn.to(gradient.dtype)


@torch.library.custom_op("anyoptim::gaussian", mutates_args=())
def _drawn(shape: Sequence[int], seed: int, device: torch.device, rank: int) -> Tensor:
    """Draw from a generator of its own: an operation to torch.compile, which cannot trace one."""
    generator = torch.Generator(device=device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).div_(math.sqrt(rank))


@_drawn.register_fake
def _(shape: Sequence[int], seed: int, device: torch.device, rank: int) -> Tensor:
    return torch.empty(shape, device=device, dtype=torch.float32)


def _norm(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    if dims == (-2,) and cached(tensor) and not isinstance(tensor, DTensor):
        # torch's norm down the columns is many times slower there than sums of a few rows that stay in the cache
        rows = torch.split(tensor, max(1, CACHED // tensor.shape[-1]), dim=-2)
        squares = [each.to(wide(each.dtype)).square().sum(dim=-2, keepdim=True) for each in rows]
        return torch.stack(squares).sum(dim=0).sqrt()
    norm: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True, dtype=wide(tensor.dtype))
    return norm
