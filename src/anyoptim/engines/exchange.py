"""Parts of tensors to the processes that own them, and parts of what these hold back: many in one all-to-all.

Each element is sent once to its owner, and once to each process that holds it. Bytes are sent, so that every backend
takes every dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from anyoptim.engines.layout import Layout, put, take


@dataclass(frozen=True)
class Parcel:
    """One tensor on its way.

    Args:
        layout: which process holds which part.
        owner: the rank in the group that has the whole, or is to have it.
        dtype: of the tensor.
    """

    layout: Layout
    owner: int
    dtype: torch.dtype


class Transfer:
    """An all-to-all under way, one for each dtype.

    Args:
        group: the processes.
        device: where they exchange tensors.
        parcels: what is sent, in the same order on every process.
        sends: what a parcel is to this process: the pieces that it sends, by the rank that gets each.
        receives: how many elements come from each rank, by the parcel.
    """

    def __init__(
        self,
        group: Any,
        device: torch.device,
        parcels: Sequence[Parcel],
        sends: Callable[[int], dict[int, Tensor]],
        receives: Callable[[int], dict[int, int]],
    ) -> None:
        ranks = range(dist.get_world_size(group))
        self._receives = receives
        self._under_way: list[tuple[list[int], Tensor, Any, Any]] = []
        for dtype in dict.fromkeys(each.dtype for each in parcels):
            numbers = [number for number, each in enumerate(parcels) if each.dtype is dtype]
            outgoing = [sends(number) for number in numbers]
            incoming = [receives(number) for number in numbers]
            sent = [sum(each[rank].numel() for each in outgoing if rank in each) for rank in ranks]
            received = [sum(each.get(rank, 0) for each in incoming) for rank in ranks]
            packed = torch.empty(sum(sent), dtype=dtype, device=device)
            start = 0
            for rank in ranks:
                for each in outgoing:
                    if rank in each:
                        packed[start : start + each[rank].numel()].view(each[rank].shape).copy_(each[rank])
                        start += each[rank].numel()
            arrived = torch.empty(sum(received), dtype=dtype, device=device)
            size = dtype.itemsize
            work = dist.all_to_all_single(
                arrived.view(torch.uint8),
                packed.view(torch.uint8),
                [size * each for each in received],
                [size * each for each in sent],
                group=group,
                async_op=True,
            )
            self._under_way.append((numbers, arrived, packed, work))

    def wait(self, take_over: Callable[[int, int, Tensor], None]) -> None:
        """Wait, and hand over what has come.

        Args:
            take_over: is called with a parcel's number, the rank that its piece comes from, and the piece, flat.
        """
        for numbers, arrived, _, work in self._under_way:
            work.wait()
            start = 0
            ranks = sorted({rank for number in numbers for rank in self._receives(number)})
            for rank in ranks:
                for number in numbers:
                    count = self._receives(number).get(rank)
                    if count is not None:
                        take_over(number, rank, arrived[start : start + count])
                        start += count
        self._under_way.clear()


class Collection:
    """Parts on their way to the owners.

    Args:
        group: the processes.
        device: where they exchange tensors.
        parcels: in the same order on every process.
        parts: this process's part of each.
    """

    def __init__(self, group: Any, device: torch.device, parcels: Sequence[Parcel], parts: Sequence[Tensor]) -> None:
        self._parcels, self._me = parcels, dist.get_rank(group)
        sources = [each.layout.sources(each.owner) for each in parcels]

        def sends(number: int) -> dict[int, Tensor]:
            return {parcels[number].owner: parts[number]} if self._me in sources[number] else {}

        def receives(number: int) -> dict[int, int]:
            if parcels[number].owner != self._me:
                return {}
            layout = parcels[number].layout
            return {rank: _count(layout.part_shape(rank)) for rank in sources[number]}

        self._transfer = Transfer(group, device, parcels, sends, receives)

    def wait(self, device: torch.device) -> dict[int, Tensor]:
        """Return the wholes of the parcels that this process owns, by their numbers.

        Args:
            device: where they are wanted.
        """
        wholes: dict[int, Tensor] = {}
        for number, each in enumerate(self._parcels):
            if each.owner == self._me:
                wholes[number] = torch.empty(each.layout.shape, dtype=each.dtype, device=device)

        def take_over(number: int, rank: int, piece: Tensor) -> None:
            layout = self._parcels[number].layout
            put(wholes[number], layout.regions[rank], piece.view(layout.part_shape(rank)))

        self._transfer.wait(take_over)
        return wholes


class Return:
    """Parts of what owners hold on their way to all processes.

    Args:
        group: the processes.
        device: where they exchange tensors.
        parcels: in the same order on every process.
        wholes: those that this process owns, by the parcel's number.
    """

    def __init__(self, group: Any, device: torch.device, parcels: Sequence[Parcel], wholes: dict[int, Tensor]) -> None:
        self._parcels, self._me = parcels, dist.get_rank(group)

        def sends(number: int) -> dict[int, Tensor]:
            layout = parcels[number].layout
            if number not in wholes:
                return {}
            return {rank: take(wholes[number], region) for rank, region in enumerate(layout.regions) if all(region)}

        def receives(number: int) -> dict[int, int]:
            shape = parcels[number].layout.part_shape(self._me)
            return {parcels[number].owner: _count(shape)} if all(shape) else {}

        self._transfer = Transfer(group, device, parcels, sends, receives)

    def wait(self) -> dict[int, Tensor]:
        """Return this process's part of each parcel, by its number, on the device of the exchange; not empty ones."""
        parts: dict[int, Tensor] = {}

        def take_over(number: int, _: int, piece: Tensor) -> None:
            parts[number] = piece.view(self._parcels[number].layout.part_shape(self._me))

        self._transfer.wait(take_over)
        return parts


def _count(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()
