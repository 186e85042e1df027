"""Which part of a tensor each process of a mesh holds, without communication."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement
from torch.utils._python_dispatch import _disable_current_modes

from anyoptim.engines.distributed import several_processes
from anyoptim.errors import UnsupportedError

Region = tuple[range | tuple[int, ...], ...]
"""The indices that a process holds, for each dimension; a range where they follow each other."""


@dataclass(frozen=True)
class Layout:
    """How a tensor lies on the processes of a group.

    Args:
        shape: of the whole.
        regions: by the process's rank in the group; those of replicas are equal.
    """

    shape: tuple[int, ...]
    regions: tuple[Region, ...]

    def sources(self, owner: int) -> tuple[int, ...]:
        """Return the ranks that send their part to the owner, so that each element comes once.

        Args:
            owner: its rank in the group; of replicas it takes its own part, and else spreads the work.
        """
        holders: dict[Region, list[int]] = {}
        for rank, region in enumerate(self.regions):
            holders.setdefault(region, []).append(rank)
        chosen = (
            owner if owner in ranks else ranks[owner % len(ranks)] for region, ranks in holders.items() if all(region)
        )
        return tuple(sorted(chosen))

    def part_shape(self, rank: int) -> tuple[int, ...]:
        """Return the shape of the part that a rank holds."""
        return tuple(len(indices) for indices in self.regions[rank])


def take(whole: Tensor, region: Region) -> Tensor:
    """Return a part of a whole tensor, a view where its indices follow each other."""
    return whole[_index(region)]


def put(whole: Tensor, region: Region, part: Tensor) -> None:
    """Write a part into a whole tensor."""
    whole[_index(region)] = part


def layout_of(tensor: Tensor) -> Layout:
    """Return how a DTensor lies on its mesh; of any other tensor every process holds a replica."""
    if isinstance(tensor, DTensor):
        order = group_ranks(tensor)
        with _disable_current_modes():  # indices are numbers, also where a step is tried on fake tensors
            return _layout(tensor.shape, _mesh_key(tensor.device_mesh), tuple(tensor.placements), order)
    shape = tuple(tensor.shape)
    return replicated(shape, dist.get_world_size() if several_processes() else 1)


def replicated(shape: Sequence[int], ranks: int) -> Layout:
    """Return the layout of a tensor that every process holds whole."""
    region = tuple(map(range, shape))
    return Layout(tuple(shape), (region,) * ranks)


def group_of(tensor: Tensor) -> Any:
    """Return the process group of all processes that hold a part of a tensor."""
    if not isinstance(tensor, DTensor):
        return dist.group.WORLD
    mesh = tensor.device_mesh
    if mesh.ndim == 1:
        return mesh.get_group()
    return dist.group.WORLD if mesh.size() == dist.get_world_size() else mesh._flatten().get_group()


def group_ranks(tensor: Tensor) -> tuple[int, ...]:
    """Return the global ranks of a tensor's process group, in the group's order."""
    return tuple(dist.get_process_group_ranks(group_of(tensor)))


def transfer_device(tensor: Tensor) -> torch.device:
    """Return where a tensor's processes exchange it: FSDP2 may keep on a CPU what they exchange on GPUs."""
    if isinstance(tensor, DTensor) and tensor.device_mesh.device_type != tensor.device.type:
        return torch.device(tensor.device_mesh.device_type)
    return tensor.device


def as_shard(part: Tensor, parameter: Tensor) -> Tensor:
    """Return a part as a DTensor that lies as the parameter does; of a parameter that is none, the part itself.

    Args:
        part: this process's, of any dtype.
        parameter: of the shape of the whole.
    """
    if not isinstance(parameter, DTensor):
        return part
    stride = torch.empty(parameter.shape, device="meta").stride()
    return DTensor.from_local(
        part, parameter.device_mesh, parameter.placements, run_check=False, shape=parameter.shape, stride=stride
    )


def first_row(parameter: Tensor, part: Tensor) -> int:
    """Return the place, in a parameter that is a DTensor, of the first row of this process's part; 0 of any other.

    Args:
        parameter: the whole.
        part: what steps of it.
    """
    if not isinstance(parameter, DTensor) or part.shape == parameter.shape or not part.dim():
        return 0
    rows = layout_of(parameter).regions[dist.get_rank(group_of(parameter))][0]
    return rows[0] if len(rows) else 0


def rows_of(parameter: Tensor, shape: Sequence[int]) -> Layout:
    """Return the layout of a tensor of a parameter's rows that lies as these do, whatever its rows hold."""
    rest = tuple(map(range, shape[1:]))
    return Layout(tuple(shape), tuple((region[0], *rest) for region in layout_of(parameter).regions))


def is_split_by_rows(parameter: Tensor) -> bool:
    """Whether a parameter is a DTensor of whole rows on each process."""
    return isinstance(parameter, DTensor) and all(getattr(each, "dim", 0) == 0 for each in parameter.placements)


def as_rows(part: Tensor, parameter: Tensor) -> Tensor:
    """Return a part that has the rows of a parameter's part as a DTensor that lies as these do.

    Args:
        part: this process's, (rows, ...).
        parameter: a DTensor, whose rows are split.

    Raises:
        UnsupportedError: it is split otherwise.
    """
    assert isinstance(parameter, DTensor)
    if not is_split_by_rows(parameter):
        raise UnsupportedError(
            "state_dtype=int8 and int4 need parameters that are sharded by rows, as FSDP2 does; leave state_dtype out"
            " of optim_args, or set it to bf16."
        )
    shape = torch.Size((parameter.shape[0], *part.shape[1:]))
    stride = torch.empty(shape, device="meta").stride()
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=shape, stride=stride)


def _mesh_key(mesh: DeviceMesh) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(mesh.mesh.shape), tuple(mesh.mesh.flatten().tolist())


@lru_cache(maxsize=1024)
def _layout(
    shape: torch.Size,
    mesh: tuple[tuple[int, ...], tuple[int, ...]],
    placements: tuple[Placement, ...],
    order: tuple[int, ...],
) -> Layout:
    sizes, ranks = mesh
    found: dict[int, Region] = {}
    for rank, coordinate in zip(ranks, itertools.product(*map(range, sizes)), strict=True):
        found[rank] = tuple(_indices(dim, size, sizes, coordinate, placements) for dim, size in enumerate(shape))
    return Layout(tuple(shape), tuple(found[rank] for rank in order))


def _indices(
    dim: int, size: int, sizes: Sequence[int], coordinate: Sequence[int], placements: Sequence[Any]
) -> range | tuple[int, ...]:
    """Return what of a dimension a process holds, as the placements themselves split it: Shard and _StridedShard."""
    held = torch.arange(size, device="cpu").view(*[1] * dim, size)
    for count, at, placement in zip(sizes, coordinate, placements, strict=True):
        if getattr(placement, "dim", None) == dim and count > 1:
            held = placement._split_tensor(held, count, with_padding=False, contiguous=False)[0][at]
    indices = held.flatten().tolist()
    if not indices:
        return range(0)
    follow = indices[-1] - indices[0] == len(indices) - 1
    return range(indices[0], indices[-1] + 1) if follow else tuple(indices)


def _index(region: Region) -> Any:
    slices = tuple(slice(each.start, each.stop) for each in region if isinstance(each, range))
    if len(slices) == len(region):
        return slices
    return torch.meshgrid(*(torch.tensor(list(each)) for each in region), indexing="ij")
