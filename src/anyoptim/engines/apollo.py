"""APOLLO: gradients scaled as a low-rank AdamW would scale them. Source: arXiv 2412.05270, Algorithm 1.

The norm-growth limiter is equation 4 of that paper (Fira, arXiv 2410.01623); which side a projection
takes is GaLore's convention, arXiv 2403.03507.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from anyoptim.engines.engine import CACHED, Engine, adamw, bias_correction, cached, local, reduced, whole, wide

_TINY = 1e-8
_GROWTH = 1.01
_RENEWED = 1_000_003  # between the seeds of one matrix's projections: more than a model has matrices
_TARGET_DEFAULTS: dict[str, Any] = {
    "proj": "random",
    "scale_type": "channel",
    "scale": 1.0,
    "update_proj_gap": 200,
    "proj_type": "std",
    "keep_projection": False,
}


class APOLLOAdamW(Engine):
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
    _places: Mapping[Tensor, int] = MappingProxyType({})

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

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with the defaults of a target's keys where it has a ``rank``."""
        if "rank" not in param_group:
            super().add_param_group(param_group)
            return
        super().add_param_group({**_TARGET_DEFAULTS, **param_group})
        flat = [parameter for parameter in self.param_groups[-1]["params"] if parameter.dim() < 2]
        if flat:
            self.param_groups.pop()
            raise ValueError(f"a parameter of shape {tuple(flat[0].shape)} is no matrix: leave rank out of its group")

    def update_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Apply one step; see :class:`Engine`."""
        if "rank" not in group:
            for parameter in parameters:
                self._adamw(group, parameter)
            return
        for parameter in parameters:
            if parameter.numel():
                self._apollo(group, parameter)

    def _adamw(self, group: dict[str, Any], parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
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
            correction=_correction(group, state["step"]),
            betas=group["betas"],
            eps=group["eps"],
        )
        self._decay(group, local(parameter.detach()))

    def _seed(self, parameter: Tensor) -> int:
        """Return a new matrix's seed: its place among all parameters, from 1."""
        if parameter not in self._places:  # at the first step, and when groups were added or FSDP2 replaced parameters
            held = [parameter for group in self.param_groups for parameter in group["params"]]
            self._places = {parameter: place for place, parameter in enumerate(held, start=1)}
        return self._places[parameter]

    def _apollo(self, group: dict[str, Any], parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state.update(step=0, seed=self._seed(parameter))
        side = _side(group["proj_type"], gradient)
        low = _project(gradient, self._projection(group, state, gradient, side), side)
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(low), torch.zeros_like(low)
            # no limit at the first step, without a branch: any norm is below infinity's
            state["update_norm"] = torch.full(
                (*low.shape[:-2], 1, 1), math.inf, dtype=wide(low.dtype), device=low.device
            )
        state["step"] += 1

        # Adam's step on zero weights, at the rate -1, is the direction itself
        direction = torch.zeros_like(low)
        adamw(
            direction,
            low,
            state["exp_avg"],
            state["exp_avg_sq"],
            lr=-1.0,
            correction=1.0,
            betas=group["betas"],
            eps=group["eps"],
        )

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
            factor = factor / _like(limiter, factor)
        if not group["scale_front"]:
            factor = factor * root
        factor = factor * (-group["lr"] * _correction(group, state["step"]))

        weight, update, by = _matching(parameter.detach(), gradient, factor)
        weight.addcmul_(update, by)
        self._decay(group, weight)

    @staticmethod
    def _decay(group: dict[str, Any], weight: Tensor) -> None:
        # not as a product with 1 - lr * weight_decay, whose rounding is the same at every step and adds up
        if group["weight_decay"] > 0:
            weight.add_(weight, alpha=-group["lr"] * group["weight_decay"])

    def _projection(
        self, group: dict[str, Any], state: dict[str, Any], gradient: Tensor, side: Literal["left", "right"]
    ) -> Tensor:
        """Return the projection of this step: (..., r, n) for the right side, (..., m, r) for the left."""
        renew = state["step"] % group["update_proj_gap"] == 0
        held: Tensor | None = state.get("projection")
        if held is not None and not renew:
            return held
        if group["proj"] == "svd":
            made = _svd(gradient, group["rank"], side)
        else:
            seed = state["seed"] + state["step"] // group["update_proj_gap"] * _RENEWED
            made = random_projection(gradient, group["rank"], side, seed)
        if group["proj"] == "svd" or group["keep_projection"]:
            state["projection"] = made
        return made


def random_projection(gradient: Tensor, rank: int, side: Literal["left", "right"], seed: int) -> Tensor:
    """Return a Gaussian projection of variance 1/rank for a gradient, drawn on its device from a seed.

    Args:
        gradient: (..., m, n); its device and dtype are the projection's.
        rank: r.
        side: "right" gives (..., r, n), "left" (..., m, r).
        seed: any integer below 2**32; the stack of a gradient is drawn from one seed.
    """
    *stack, rows, columns = gradient.shape
    shape = (*stack, rank, columns) if side == "right" else (*stack, rows, rank)
    generator = torch.Generator(device=gradient.device).manual_seed(seed % 2**32)
    drawn = torch.randn(shape, generator=generator, device=gradient.device, dtype=torch.float32)
    return drawn.div_(math.sqrt(rank)).to(gradient.dtype)


def _svd(gradient: Tensor, rank: int, side: Literal["left", "right"]) -> Tensor:
    left: Tensor
    right: Tensor
    left, _, right = torch.linalg.svd(whole(gradient).to(wide(gradient.dtype)), full_matrices=False)
    chosen = right[..., :rank, :] if side == "right" else left[..., :rank]
    return chosen.to(gradient.dtype, memory_format=torch.contiguous_format, copy=True)


def _side(proj_type: str, gradient: Tensor) -> Literal["left", "right"]:
    if proj_type in ("left", "right"):
        return proj_type  # type: ignore[return-value]
    tall = gradient.shape[-2] >= gradient.shape[-1]
    return "right" if tall == (proj_type == "std") else "left"


def _project(gradient: Tensor, projection: Tensor, side: Literal["left", "right"]) -> Tensor:
    projection = _like(projection, gradient)
    return reduced(gradient @ projection.mT if side == "right" else projection.mT @ gradient)


def _norm(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    if dims == (-2,) and cached(tensor) and not isinstance(tensor, DTensor):
        # torch's norm down the columns is many times slower there than sums of a few rows that stay in the cache
        rows = torch.split(tensor, max(1, CACHED // tensor.shape[-1]), dim=-2)
        squares = [each.to(wide(each.dtype)).square().sum(dim=-2, keepdim=True) for each in rows]
        return torch.stack(squares).sum(dim=0).sqrt()
    norm: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True, dtype=wide(tensor.dtype))
    return norm


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a tensor replicated over the mesh of ``other``, where that is a DTensor."""
    if isinstance(other, DTensor):
        mesh = other.device_mesh
        return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return tensor


def _matching(weight: Tensor, gradient: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three as plain tensors: a DTensor's own part, and of the factor what scales that part."""
    if not isinstance(weight, DTensor):
        return weight, gradient, factor
    assert isinstance(factor, DTensor)
    placements = [
        each if isinstance(each, Shard) and factor.shape[each.dim] > 1 else Replicate() for each in weight.placements
    ]
    return local(weight), local(gradient), local(factor.redistribute(placements=placements))


def _correction(group: dict[str, Any], step: int) -> float:
    return bias_correction(group["betas"], step) if group["correct_bias"] else 1.0
