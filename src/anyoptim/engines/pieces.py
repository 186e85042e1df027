"""A weight as the matrices that it consists of: cut, and put together again.

A group may say how its parameters are cut: ``split``, a mapping of

- ``dim``: the dimension that is cut, -2 (rows) or -1 (columns);
- ``sizes``: how many of its elements go to each piece, one after the other;
- ``repeats``: how often this order comes again, for projections that are interleaved by head.

``flatten``: each parameter is the matrix of its first dimension and all others, as of a convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def cut(weight: Tensor, group: Mapping[str, Any]) -> list[Tensor]:
    """Return the pieces of what has a parameter's shape, contiguous; views where a piece lies in one run.

    Args:
        weight: (m, n), or a stack (E, m, n), whose pieces are stacks; where the group flattens (m, ...).
        group: the parameter's.
    """
    matrix = weight.flatten(1) if group.get("flatten") else weight
    split = group.get("split")
    if split is None:
        return [matrix]
    dim = split["dim"]
    repeated = torch.unflatten(matrix, dim, (split["repeats"], sum(split["sizes"])))
    runs = torch.split_with_sizes(repeated, split["sizes"], dim)
    return [run.flatten(dim - 1, dim).contiguous() for run in runs]


def join(pieces: Sequence[Tensor], group: Mapping[str, Any], shape: Sequence[int]) -> Tensor:
    """Return what :func:`cut` has cut.

    Args:
        pieces: in its order.
        group: the parameter's.
        shape: the parameter's.
    """
    split = group.get("split")
    if split is None:
        (matrix,) = pieces
    else:
        dim, repeats = split["dim"], split["repeats"]
        runs = [torch.unflatten(piece, dim, (repeats, piece.shape[dim] // repeats)) for piece in pieces]
        matrix = torch.cat(runs, dim).flatten(dim - 1, dim)
    return matrix.view(shape) if group.get("flatten") else matrix


def shapes(shape: Sequence[int], group: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Return the shapes of the pieces of a parameter of ``shape``.

    Raises:
        ValueError: it cannot be cut so.
    """
    flat = group.get("flatten") and len(shape) > 2
    matrix = (shape[0], torch.Size(shape[1:]).numel()) if flat else tuple(shape)
    if len(matrix) not in (2, 3):
        raise ValueError(f"a parameter of shape {tuple(shape)} is no matrix and no stack of matrices")
    split = group.get("split")
    if split is None:
        return [matrix]
    dim, repeats, sizes = split["dim"], split["repeats"], split["sizes"]
    if dim not in (-2, -1) or repeats * sum(sizes) != matrix[dim] or min(sizes) < 1:
        raise ValueError(f"a parameter of shape {tuple(shape)} cannot be cut into {repeats} times {list(sizes)}")
    return [(*matrix[:dim], repeats * size, *(matrix[-1:] if dim == -2 else ())) for size in sizes]


def weighed(
    pieces: Sequence[Tensor], weigh: Callable[[Sequence[int]], float], reference: Sequence[int]
) -> list[Tensor]:
    """Return directions of pieces in the measure of one of them, which the whole is scaled by afterwards.

    Nothing is rounded where all weigh the same. Others are in float32.

    Args:
        pieces: their directions.
        weigh: the factor of a matrix of a shape.
        reference: the shape whose factor is left out.
    """
    whole = weigh(reference)
    ratios = [weigh(piece.shape) / whole for piece in pieces]
    return [piece if ratio == 1 else piece.float() * ratio for piece, ratio in zip(pieces, ratios, strict=True)]
