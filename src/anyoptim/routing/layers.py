"""The depth of each parameter, for layer-wise learning-rate decay."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import nn

from anyoptim.names.role import EMBEDDINGS, LINEAR, Role
from anyoptim.routing.places import Place

_EMBEDS = re.compile(r"(?:^|[._])embed")
_BLOCK_ROLES = LINEAR - {Role.OUTPUT_HEAD}


def layer_numbers(model: nn.Module, places: Sequence[Place]) -> tuple[dict[str, int], int]:
    """Return the layer of each parameter by name, and the number of the last layer; ``({}, 0)`` without layers.

    Layers are the blocks of the model: the items of its outermost lists of modules (of several lists, as an encoder's
    and a decoder's, one after the other). Where some lists hold whole blocks, with matrices among their modules, others
    are no layers: bare projections, or convolutions before a transformer. What comes before the layers, and every
    embedding, is layer 0, the first item is layer 1, what comes after all of them, and every output head, is the last
    one; before and after are by order of registration. Source: BEiT, arXiv 2106.08254, whose rates are
    ``lr * layer_decay ** (last - layer)``.

    Args:
        model: the model.
        places: its parameters in order.
    """
    prefixes = {prefix for list_ in _blocks(model, places) for prefix in list_}
    if not prefixes:
        return {}, 0
    numbers: dict[str, int] = {}
    passed: dict[str, int] = {}
    outside: list[Place] = []
    for place in places:
        layer = _layer_of(place.module_name, prefixes)
        if layer is not None:
            numbers[place.name] = passed.setdefault(layer, len(passed) + 1)
        else:
            numbers[place.name] = len(passed) + 1 if passed else 0
            outside.append(place)
    last = len(passed) + 1
    for place in outside:
        # OPT registers the norm after its layers before them
        if place.role is Role.OUTPUT_HEAD or (numbers[place.name] == 0 and "final" in place.module_name):
            numbers[place.name] = last
        # Gemma3n registers embeddings after its layers, BART the norm of its embeddings
        elif place.role in EMBEDDINGS or _EMBEDS.search(place.name):
            numbers[place.name] = 0
    return numbers, last


def _layer_of(module_name: str, prefixes: set[str]) -> str | None:
    end = module_name.find(".")
    while end >= 0:
        if module_name[:end] in prefixes:
            return module_name[:end]
        end = module_name.find(".", end + 1)
    return module_name if module_name in prefixes else None


def _blocks(model: nn.Module, places: Sequence[Place]) -> list[list[str]]:
    """Return the names of the items of the lists that are layers; of sequences of alike modules where no list is."""
    for kind in (nn.ModuleList, nn.Sequential):
        found = list(_outermost(model, "", kind))
        if found:
            return [each for each in found if _holds_blocks(each, places)] or found
    return []


def _holds_blocks(list_: list[str], places: Sequence[Place]) -> bool:
    """Whether an item of a list has a matrix in a module of its own."""
    starts = tuple(f"{prefix}." for prefix in list_)
    return any(place.module_name.startswith(starts) and place.role in _BLOCK_ROLES for place in places)


def _outermost(module: nn.Module, name: str, kind: type[nn.Module]) -> Iterator[list[str]]:
    prefix = f"{name}." if name else ""
    if isinstance(module, kind):
        items = {key: each for key, each in module._modules.items() if each and any(True for _ in each.parameters())}
        alike = kind is nn.ModuleList or len({type(each) for each in items.values()}) == 1
        if len(items) > 1 and alike:
            yield [f"{prefix}{key}" for key in items]
            return
    for key, child in module._modules.items():
        if child is not None:
            yield from _outermost(child, f"{prefix}{key}", kind)
