"""Which matrices a weight consists of: q, k and v of a fused projection, heads, the groups of a convolution.

Found from the module that uses the weight: the table of fused projections, its numbers of heads, and shapes, which
have to agree. Where they do not, a weight is taken whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from anyoptim.arguments.settings import Settings
from anyoptim.names.role import Role
from anyoptim.routing.fused import SEEM_FUSED, SEPARATE, Fused, Order, fused_in
from anyoptim.routing.places import Place, shape_of

_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
_KEY_VALUE_HEADS = ("num_kv_heads", "num_key_value_heads", "kv_heads", "kv_n_heads")
_HEAD_SIZE = ("head_dim", "head_size", "attention_head_size", "key_value_proj_dim")
"""What modules and configurations call their numbers."""


@dataclass(frozen=True)
class Pieces:
    """The matrices that a weight consists of.

    Args:
        values: what its group says of them; see ``anyoptim.engines.pieces``.
        label: the same for a person.
    """

    values: Mapping[str, object]
    label: str


def pieces_of(place: Place, settings: Settings) -> Pieces | None:
    """Return the pieces of a target; ``None`` where it is one matrix, or nothing says what it is.

    Args:
        place: the parameter.
        settings: ``split_fused``, ``heads`` and ``convolutions`` of its optimizer, which may have none of them.
    """
    if flattens(place, settings):
        return _of_convolution(place)
    heads = settings.get("heads") is True
    if place.role not in (Role.HIDDEN_MATRIX, Role.EXPERT_STACK) or not (heads or settings.get("split_fused")):
        return None
    owner, attribute = _use(place)
    if owner is None or len(shape_of(place.parameter)) < 2:  # FSDP1 shows flat parts
        return None
    dim = _output_dim(place, owner)
    outputs = shape_of(place.parameter)[dim]
    for fused in fused_in(owner, attribute):
        if "gate" in fused.names:
            return _of_gated(fused, dim, outputs) if settings.get("split_fused") else None
        found = _of_attention(fused, owner, dim, outputs, heads=heads)
        if found is not None:
            return found
    return _of_separate(owner, attribute, dim, outputs) if heads else None


def flattens(place: Place, settings: Settings) -> bool:
    """Whether a parameter is a convolution that shall be a matrix."""
    return (
        settings.get("convolutions") == "flatten"
        and place.role is Role.CONVOLUTION
        and isinstance(place.module, nn.modules.conv._ConvNd)
    )


def unsplit(places: Sequence[Place], found: Mapping[str, Pieces], settings: Settings) -> Iterator[str]:
    """Say which matrices are taken whole although they seem to be several.

    Args:
        places: the targets.
        found: the pieces of those that have any, by name.
        settings: see :func:`pieces_of`.
    """
    if settings.get("split_fused"):
        whole = [each for each in places if each.name not in found and _use(each)[1] in SEEM_FUSED]
        if whole:
            yield (
                f"{len(whole)} matrices such as {whole[0].name} are taken whole: by name they may hold several"
                " projections, but nothing says in which order"
            )
    if settings.get("heads") is True and not any("heads of" in each.label for each in found.values()):
        yield "heads has no effect: no target is a q, k or v whose heads its module tells"


# ---------------------------------------------------------------- what a weight is


def _use(place: Place) -> tuple[nn.Module | None, str]:
    """Return the module that computes with a weight, and what it calls it."""
    if place.role is Role.EXPERT_STACK or isinstance(place.module, nn.MultiheadAttention):
        return place.module, place.name.rpartition(".")[2]
    return place.parent, place.module_name.rpartition(".")[2]


def _output_dim(place: Place, owner: nn.Module) -> int:
    """Return the dimension of a weight that its outputs have: rows (-2) or columns (-1)."""
    if place.role is not Role.EXPERT_STACK:
        return -1 if hasattr(place.module, "nf") else -2  # transformers' Conv1D
    down = getattr(owner, "down_proj", None)
    *_, inputs, outputs = shape_of(place.parameter)
    transposed = isinstance(down, nn.Parameter) and shape_of(down)[1:] == (outputs // 2, inputs)
    return -1 if transposed else -2


def _of_gated(fused: Fused, dim: int, outputs: int) -> Pieces:
    half = outputs // 2
    repeats, size = (half, 1) if fused.order is Order.ALTERNATING else (1, half)
    return Pieces(_split(dim, repeats, (size, size)), f"gate {half} | up {half}")


def _of_attention(fused: Fused, owner: nn.Module, dim: int, outputs: int, *, heads: bool) -> Pieces | None:
    """Return the pieces of a fused projection of attention; ``None`` if its numbers do not fit."""
    queries = _number(owner, _HEADS)
    if queries is None:
        return None
    groups = _number(owner, _KEY_VALUE_HEADS) or queries
    counts = [queries if name == "q" else groups for name in fused.names]
    size = _number(owner, _HEAD_SIZE)
    if size is None and groups == queries:
        size = outputs // sum(counts)
    repeats = {Order.BY_GROUP: groups, Order.BY_FOUR: 4}.get(fused.order, 1)
    # a run that is no whole number of heads is not what the table means
    if size is None or sum(counts) * size != outputs or any(count % repeats for count in counts):
        return None
    if heads:
        return Pieces(_split(dim, 1, (size,) * sum(counts)), _heads(sum(counts), size))
    label = " | ".join(f"{name} {count * size}" for name, count in zip(fused.names, counts, strict=True))
    return Pieces(_split(dim, repeats, tuple(count * size // repeats for count in counts)), label)


def _of_separate(owner: nn.Module, attribute: str, dim: int, outputs: int) -> Pieces | None:
    """Return the heads of a q, k or v with a weight of its own; ``None`` where it is none, or numbers do not fit."""
    queries = _number(owner, _HEADS)
    names: Sequence[str] = next((each for each in SEPARATE if attribute in each), ())
    shapes = [_shape(getattr(owner, name, None)) for name in names]
    if queries is None or not shapes or any(len(shape) != 2 for shape in shapes):
        return None
    q, k, v = (shape[dim] for shape in shapes)
    size = _number(owner, _HEAD_SIZE) or q // queries
    groups = k // size
    # the heads of v may have another size than those of k
    if q != queries * size or k != groups * size or not groups or queries % groups or v % groups:
        return None
    count = queries if attribute == names[0] else groups
    return Pieces(_split(dim, 1, (outputs // count,) * count), _heads(count, outputs // count))


def _of_convolution(place: Place) -> Pieces:
    """Return a convolution's matrix, or of a grouped one that of each group, which is a map of its own."""
    outputs, *others = shape_of(place.parameter)
    groups = int(getattr(place.module, "groups", 1))
    rows, columns = outputs // groups, math.prod(others)
    if groups == 1:
        return Pieces({"flatten": True}, f"{rows} x {columns}")
    split = _split(-2, 1, (rows,) * groups)
    return Pieces({"flatten": True, **split}, f"{groups} groups of {rows} x {columns}")


def _split(dim: int, repeats: int, sizes: tuple[int, ...]) -> dict[str, object]:
    return {"split": {"dim": dim, "repeats": repeats, "sizes": sizes}}


def _heads(count: int, size: int) -> str:
    return f"{count} heads of {size}"


def _shape(module: object) -> Sequence[int]:
    weight = getattr(module, "weight", None)
    return shape_of(weight) if isinstance(weight, nn.Parameter) else ()


def _number(owner: nn.Module, names: Sequence[str]) -> int | None:
    """Return the first of some numbers that a module, or else its configuration, has."""
    for holder in (owner, getattr(owner, "config", None)):
        for name in names:
            value = getattr(holder, name, None)
            if isinstance(value, int) and value > 0:
                return value
    return None
