"""Tensors on several processes: this process's part, the whole, and a gradient laid out as its parameter is.

Of DTensors, elementwise work is on the local part; norms, means and low-rank products are DTensor operations whose
partial sums are reduced before they are used.
"""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate


def several_processes() -> bool:
    """Whether this process trains together with others."""
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a DTensor, sharing its storage; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a DTensor's value gathered and reduced over its mesh; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a tensor replicated over the mesh of ``other``, where only that is a DTensor; else as it is."""
    if isinstance(other, DTensor) and not isinstance(tensor, DTensor):
        mesh = other.device_mesh
        return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return tensor


def part(tensor: Tensor, weight: Tensor, *shared: int) -> Tensor:
    """Return, as a plain tensor, what of ``tensor`` belongs to this process's part of a weight.

    Args:
        tensor: of as many dimensions as the weight; whole on every process, or a DTensor.
        weight: decides how dimensions are split over processes.
        shared: negative dimensions that ``tensor`` has in place of the weight's, so that they are not split.
    """
    tensor = like(tensor, weight)
    if not isinstance(tensor, DTensor):
        return tensor
    assert isinstance(weight, DTensor)
    kept = {None, *(tensor.dim() + each for each in shared)}
    # what splits has a dimension, also where a dimension is split twice, which is no Shard
    placements = [Replicate() if getattr(each, "dim", None) in kept else each for each in weight.placements]
    return local(tensor.redistribute(placements=placements))


def reduced(tensor: Tensor) -> Tensor:
    """Return a DTensor of the same value with no partial sums pending; any other tensor as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    return tensor.redistribute(
        placements=[Replicate() if isinstance(each, Partial) else each for each in tensor.placements]
    )


def mean(tensor: Tensor, dim: int) -> Tensor:
    """Return the mean over a dimension; of a DTensor with no partial sums pending."""
    return reduced(tensor.sum(dim=dim)) / tensor.shape[dim]


def lay_out_gradient(parameter: Tensor) -> None:
    """Lay out the gradient of a DTensor as the parameter is laid out.

    Under sequence parallelism each process holds the sum over its part of a sequence, still to be reduced.
    """
    gradient = parameter.grad
    if isinstance(gradient, DTensor) and isinstance(parameter, DTensor) and gradient.placements != parameter.placements:
        parameter.grad = gradient.redistribute(placements=parameter.placements)
