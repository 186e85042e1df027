"""A model as a strip: a row for each kind of parameter, a column for each layer, and how each is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from anyoptim.building.blueprint import Blueprint
from anyoptim.names.role import Role
from anyoptim.planning.treatments import Treatment, treatments
from anyoptim.routing.layers import layer_numbers
from anyoptim.routing.places import Place, shape_of
from anyoptim.routing.routes import Route
from anyoptim.text import collapse

_ADAPTERS = frozenset({Role.LORA_A, Role.LORA_B})
_EVERYWHERE = frozenset({Role.NORM, Role.BIAS})
"""What stands in every module of a layer, so that its module says nothing."""


@dataclass(frozen=True)
class Alike:
    """Parameters of one shape in neighbouring layers that are trained alike.

    Args:
        names: layers as ranges.
        count: how many they are.
        shape: of each.
        treatment: how they are trained.
    """

    names: str
    count: int
    shape: tuple[int, ...]
    treatment: Treatment


@dataclass(frozen=True)
class Cell:
    """Neighbouring layers that look alike in one row.

    Args:
        first: their first column.
        last: their last one.
        parameters: what is in them.
        elements: of all of these.
    """

    first: int
    last: int
    parameters: tuple[Alike, ...]
    elements: int

    @property
    def rates(self) -> list[object]:
        """The learning rates of its parameters."""
        return [*dict.fromkeys(each.treatment.rate for each in self.parameters)]


@dataclass(frozen=True)
class Row:
    """Parameters of one role that one optimizer trains with one decay and one rank.

    Args:
        label: what they are.
        optimizer: which one.
        decay: its weight decay.
        rank: of its low-rank state, or ``"full"``.
        cells: in order of layers.
    """

    label: str
    optimizer: str
    decay: object
    rank: str
    cells: tuple[Cell, ...]

    @property
    def rates(self) -> list[object]:
        """The learning rates of all cells, from the first layer's on."""
        return [*dict.fromkeys(rate for each in self.cells for rate in each.rates)]


@dataclass(frozen=True)
class Strip:
    """The trainable part of a model.

    Args:
        columns: 1 for what comes before the layers, one for each layer, 1 for what comes after; 1 without layers.
        rows: in the model's order.
    """

    columns: int
    rows: tuple[Row, ...]

    @property
    def layers(self) -> int:
        """How many layers the model has; 0 if none are found."""
        return max(self.columns - 2, 0)


_Member = tuple[Route, Treatment, int]
"""A parameter, how it is trained, and the number of its layer."""


def strip_of(plan: Blueprint) -> Strip:
    """Return the strip of a plan with a model."""
    assert plan.routing is not None and plan.model is not None
    numbers, last = layer_numbers(plan.model, [each.place for each in plan.routing.routes])
    kinds: dict[tuple[str, str, object, str], list[_Member]] = {}
    for route, treatment in treatments(plan):
        module = _module(route.place)
        label = f"{module}, {route.role}" if module else str(route.role)
        kind = (label, treatment.optimizer, treatment.decay, treatment.rank)
        kinds.setdefault(kind, []).append((route, treatment, numbers.get(route.name, 0)))
    return Strip(last + 1, tuple(Row(*kind, tuple(_cells(members))) for kind, members in kinds.items()))


def _module(place: Place) -> str:
    """Return where in its layer a parameter stands, without numbers and its own name; "" outside of layers."""
    parts = place.bare_name.split(".")
    at = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    if at is None or place.role in _EVERYWHERE:
        return ""
    own = 1 + (parts[-1] in ("weight", "bias")) + (place.role in _ADAPTERS)
    return ".".join(part for part in parts[at + 1 : -own] if not part.isdigit())


def _cells(members: Iterable[_Member]) -> Iterator[Cell]:
    """Yield the cells of a row; what is alike in neighbouring layers is one."""
    by_layer: dict[int, list[_Member]] = {}
    for member in members:
        by_layer.setdefault(member[2], []).append(member)
    # what is alike, and where a run without gaps began
    runs = groupby(enumerate(sorted(by_layer)), key=lambda each: (each[1] - each[0], _look(by_layer[each[1]])))
    for _, run in runs:
        layers = [layer for _, layer in run]
        inside = [member for layer in layers for member in by_layer[layer]]
        elements = sum(route.place.numel for route, _, _ in inside)
        yield Cell(layers[0], layers[-1], tuple(_alike(inside)), elements)


def _look(members: Sequence[_Member]) -> tuple[object, ...]:
    """Return what of a layer's part a picture shows."""
    return tuple(sorted((shape_of(route.parameter), *map(str, treatment)) for route, treatment, _ in members))


def _alike(members: Iterable[_Member]) -> Iterator[Alike]:
    kinds: dict[tuple[tuple[int, ...], Treatment], list[str]] = {}
    for route, treatment, _ in members:
        kinds.setdefault((shape_of(route.parameter), treatment), []).append(route.name)
    for (shape, treatment), names in kinds.items():
        for text, those in collapse(names):
            yield Alike(text, len(those), shape, treatment)
