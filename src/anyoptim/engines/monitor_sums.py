"""Sums over samples of parameters before and after a step, left on the device; of shared ones, those of all processes.

They are added up as the step ends, which all processes reach together. To ask for them may then be one process's work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.optim import Optimizer

from anyoptim.engines.composite import inside
from anyoptim.engines.distributed import local, several_processes, whole
from anyoptim.engines.owned import Owned
from anyoptim.engines.readings import Sums
from anyoptim.engines.samples import gradient_of, moves, norm, share, weight_sample


class Before(NamedTuple):
    """Of a parameter, before a step: a sample of it, and of its gradient the norm and where a sample of it is not 0."""

    weights: Tensor
    norm: Tensor | None
    moves: Tensor | None

    @classmethod
    def of(cls, optimizer: Optimizer, parameter: Tensor) -> Before:
        """Look at a parameter."""
        gradient = gradient_of(parameter)
        weights = weight_sample(parameter, optimizer.state.get(parameter, {}))
        return cls(weights, *((None, None) if gradient is None else (norm(gradient), moves(gradient))))

    @property
    def driven(self) -> Tensor:
        """Which of the sample have a gradient other than zero: all where that is not known."""
        return torch.ones_like(self.weights, dtype=torch.bool) if self.moves is None else self.moves


class Part(NamedTuple):
    """Sums of the parameters on one device that the same processes share.

    Args:
        places: of the parameters among all.
        sums: (fields of ``Sums``, parameters), fp32.
    """

    places: Sequence[int]
    sums: Tensor

    def read(self) -> Iterator[tuple[int, Sums]]:
        """Wait for the device, and yield what was measured, by its place."""
        return zip(self.places, (Sums(*column) for column in self.sums.T.tolist()), strict=True)


def parts(optimizer: Optimizer, every: Sequence[tuple[Tensor, Before | None]], scale: Tensor | None) -> list[Part]:
    """Return the sums of a step that has just been taken.

    Args:
        optimizer: it.
        every: all parameters in an order that processes share, with what was taken of those that were stepped.
        scale: of gradients that were not unscaled.
    """
    owned = {each: one for one in inside(optimizer, Owned) if one.replicas for each in one.every()}
    by_processes: dict[Any, list[int]] = {}
    for place, (parameter, _) in enumerate(every):
        key = (parameter.device, *_processes(parameter), parameter in owned and several_processes())
        by_processes.setdefault(key, []).append(place)
    found = []
    for (*_, has_owners), places in by_processes.items():
        members = [every[place] for place in places]
        if has_owners:  # who alone has what lies behind a weight
            members = [
                (each, before if owned[each].owner(each) == dist.get_rank() else None) for each, before in members
            ]
        sums = _sums(optimizer, members, scale)
        if has_owners:
            dist.all_reduce(sums)
        found.append(Part(places, _added_up(sums, members[0][0])))
    return found


def _sums(optimizer: Optimizer, members: Sequence[tuple[Tensor, Before | None]], scale: Tensor | None) -> Tensor:
    """Return this process's sums of parameters on one device."""
    zero = torch.zeros((), device=local(members[0][0].detach()).device)
    rows = [[zero] * len(members) for _ in Sums._fields]
    measured = [(at, each, before) for at, (each, before) in enumerate(members) if before is not None]
    if measured:
        shares = [share(each) for _, each, _ in measured]
        sizes = [before.weights.numel() for _, _, before in measured]
        old = torch.cat([before.weights for _, _, before in measured])
        new = torch.cat([weight_sample(each, optimizer.state.get(each, {})) for _, each, _ in measured])
        driven = torch.cat([before.driven for _, _, before in measured])
        still = driven & (new == old)
        sums: list[Sequence[Tensor]] = [
            *(_squares(torch._foreach_norm(torch.split(each, sizes), 2)) for each in (new - old, old)),
            *(torch._foreach_norm(torch.split(each.to(old.dtype), sizes), 1) for each in (still, driven)),
        ]
        for each in sums:
            torch._foreach_mul_(list(each), [times for _, times in shares])
        norms = [zero if before.norm is None else before.norm for _, _, before in measured]
        squares = _squares(norms if scale is None else torch._foreach_div(norms, scale.to(zero.device)))
        elements = torch._foreach_add([zero] * len(shares), [count for count, _ in shares])
        for row, values in zip(rows, (*sums, squares, elements), strict=True):
            for (at, _, _), value in zip(measured, values, strict=True):
                row[at] = value.float()
    return torch.stack([torch.stack(row) for row in rows])


def _squares(norms: Sequence[Tensor]) -> Sequence[Tensor]:
    return torch._foreach_mul(list(norms), list(norms))


def _processes(parameter: Tensor) -> tuple[Any, ...]:
    """Return what parameters have in common whose sums are added up together."""
    return (parameter.device_mesh, _pending(parameter)) if isinstance(parameter, DTensor) else ()


def _pending(parameter: DTensor) -> tuple[Partial | Replicate, ...]:
    return tuple(Replicate() if each.is_replicate() else Partial() for each in parameter.placements)


def _added_up(sums: Tensor, parameter: Tensor) -> Tensor:
    """Return the sums of all processes that hold parts of a parameter, those that hold the same one counted once."""
    if not isinstance(parameter, DTensor):
        return sums
    return whole(DTensor.from_local(sums, parameter.device_mesh, _pending(parameter), run_check=False))
