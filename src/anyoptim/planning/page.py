"""A plan as one page that needs nothing else: its memory, the model by layers, its rates, what is said of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from anyoptim.building.blueprint import Blueprint
from anyoptim.memory.footprint import Footprint
from anyoptim.names.packages import load
from anyoptim.planning.bars import PARTS, elsewhere, sizes, total, verdict
from anyoptim.planning.curves import Curves, Schedule, curves_of
from anyoptim.planning.strip import Alike, Cell, Row, Strip, strip_of
from anyoptim.planning.table import memory_notes, memory_rows, memory_title, parameter_rows, telling
from anyoptim.planning.treatments import Treatment, number
from anyoptim.text import format_bytes

_HUES = 6
"""Colours of the strip; more kinds of treatment share them."""
_FAINTEST = 35
"""Per cent of its colour that the lowest rate has."""
_TICKS = 8


def plan_page(
    plan: Blueprint,
    advice: Iterable[str],
    memory: Mapping[str, Footprint],
    ranks: int,
    sharding: str,
    available: int | None,
    schedule: Schedule | None,
    model: str,
    command: str,
) -> str:
    """Return the page of a plan with a model.

    Args:
        plan: what was decided.
        advice: what is said of it.
        memory: the footprint of it, and of what stands beside it, by name.
        ranks: processes that the memory is for; see ``Plan.footprint``.
        sharding: how they share it.
        available: bytes that one process has; ``None`` if nobody asks whether it fits.
        schedule: what becomes of the rates; ``None`` leaves them out.
        model: what the page calls the model.
        command: what makes the same page again; "" if none does.

    Raises:
        MissingPackageError: jinja2 is not installed.
    """
    jinja2 = load("jinja2", needed_by="A page", package="jinja2", install="pip install 'anyoptim[compare]'")
    loader = jinja2.PackageLoader("anyoptim.planning", "")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    rows, strip = list(parameter_rows(plan)), strip_of(plan)
    hues = _hues(strip)
    shown = [_shown(row, strip, hues) for row in strip.rows]
    settings = [(name, str(each.value), each.source) for name, each in plan.hyperparameters.items()]
    page: str = environment.get_template("page.html.j2").render(
        plan=plan,
        model=model,
        command=command,
        advice=[*advice],
        verdict=verdict(plan.spec.name, memory[plan.spec.name], available) if available is not None else "",
        fits=(memory[plan.spec.name].total or 0) <= (available or math.inf),
        available=format_bytes(available) if available is not None else "",
        bars=[*_bars(memory, available)],
        parts=[
            (index, part.label)
            for index, part in enumerate(PARTS)
            if any(sizes(each)[index] for each in memory.values())
        ],
        memory_title=memory_title(ranks, sharding),
        memory_names=[*memory],
        memory_rows=[*memory_rows(plan, memory)],
        memory_notes=memory_notes(plan, memory, ranks),
        strip=strip,
        rows=shown,
        some_decay_not=not all(row.decays for row in shown),
        some_are_pale=any(cell.strength < 100 for row in shown for cell in row.cells),
        ticks=[*_ticks(strip)],
        kinds=[(hue, f"{name}, rank {rank}" if rank != "full" else name) for (name, rank), hue in hues.items()],
        schedule=schedule,
        panels=[_panel(each, hues) for each in curves_of(plan, schedule)] if schedule else [],
        chosen=[each for each in settings if each[2] != "default"],
        defaults=[each for each in settings if each[2] == "default"],
        parameters=rows,
        columns=("names", "tensors", "elements", "role", *telling(rows)),
    )
    return page


@dataclass(frozen=True)
class _Bar:
    """A bar of memory: parts as their number, per cent of the width, and words."""

    name: str
    total: str
    over: bool
    parts: tuple[tuple[int, float, str], ...]
    mark: float | None
    elsewhere: str


def _bars(memory: Mapping[str, Footprint], available: int | None) -> Iterator[_Bar]:
    span = max(available or 0, *(sum(sizes(each)) for each in memory.values()), 1)
    for name, footprint in memory.items():
        held = sizes(footprint)
        yield _Bar(
            name,
            total(footprint),
            available is not None and sum(held) > available,
            tuple(
                (index, 100 * size / span, f"{part.label} {format_bytes(size)}")
                for index, (part, size) in enumerate(zip(PARTS, held, strict=True))
                if size
            ),
            None if available is None else 100 * available / span,
            elsewhere(footprint),
        )


_Hues = Mapping[tuple[str, str], int]
"""The number of a colour by optimizer and rank."""


def _hues(strip: Strip) -> _Hues:
    kinds = dict.fromkeys((row.optimizer, row.rank) for row in strip.rows)
    return {kind: index % _HUES for index, kind in enumerate(kinds)}


@dataclass(frozen=True)
class _ShownCell:
    first: int
    after: int
    layers: int
    strength: int
    title: str
    lines: tuple[tuple[str, list[str]], ...]


@dataclass(frozen=True)
class _ShownRow:
    label: str
    settings: str
    hue: int
    decays: bool
    cells: tuple[_ShownCell, ...]


def _shown(row: Row, strip: Strip, hues: _Hues) -> _ShownRow:
    everything = [rate for each in strip.rows if each.optimizer == row.optimizer for rate in each.rates]
    settings = [row.optimizer] if len({each.optimizer for each in strip.rows}) > 1 else []
    settings += _rates(row.rates)
    settings += [] if row.decay is None else [f"decay {number(row.decay)}"]
    settings += [] if row.rank == "full" else [f"rank {row.rank}"]
    cells = tuple(
        _ShownCell(
            each.first + 1,
            each.last + 2,
            each.last - each.first + 1,
            _strength(each.rates, everything),
            f"{row.label}, {_where(each, strip)}: {each.elements:,} elements",
            tuple(_lines(each.parameters)),
        )
        for each in row.cells
    )
    return _ShownRow(row.label, ", ".join(settings), hues[row.optimizer, row.rank], bool(row.decay), cells)


def _lines(parameters: Sequence[Alike]) -> Iterator[tuple[str, list[str]]]:
    """Yield how parameters are trained, and which are trained so."""
    for treatment, alike in groupby(parameters, key=lambda each: each.treatment):
        of_shape = ((each.names, f"{each.count} of " if each.count > 1 else "", each.shape) for each in alike)
        yield _said(treatment), [f"{names}: {count}{shape}" for names, count, shape in of_shape]


def _rates(rates: Sequence[object]) -> list[str]:
    known = sorted(rate for rate in rates if isinstance(rate, (int, float)))
    if not known:
        return []
    ends = dict.fromkeys((number(float(known[0])), number(float(known[-1]))))
    return [f"lr {' to '.join(ends)}"]


def _strength(rates: Sequence[object], everything: Sequence[object]) -> int:
    """Return per cent of a colour: all of it for the highest rate of an optimizer, little for its lowest."""
    own = [rate for rate in rates if isinstance(rate, (int, float)) and rate > 0]
    known = [rate for rate in everything if isinstance(rate, (int, float)) and rate > 0]
    if not own or max(known) == min(known):
        return 100
    return round(100 - (100 - _FAINTEST) * math.log(max(known) / max(own)) / math.log(max(known) / min(known)))


def _where(cell: Cell, strip: Strip) -> str:
    """Write which layers a cell is, counted from 0 as in names."""
    if not strip.layers:
        return "the whole model"
    first, last = cell.first - 1, cell.last - 1
    if first < 0:
        return "before the layers" if last < 0 else f"from before the layers to layer {last}"
    if last == strip.layers:
        return "after the layers" if first == last else f"from layer {first} to after the layers"
    return f"layer {first}" if first == last else f"layers {first} to {last}"


def _said(treatment: Treatment) -> str:
    """Write how parameters are trained, and the rules that put them there."""
    parts = [treatment.optimizer, *_rates([treatment.rate])]
    parts += [] if treatment.decay is None else [f"decay {number(treatment.decay)}"]
    parts += [] if treatment.rank == "full" else [f"rank {treatment.rank}"]
    parts += [] if treatment.pieces == "-" else [f"as {treatment.pieces}"]
    parts.append("no target" if treatment.rule == "-" else f"target by {treatment.rule}")
    parts += [] if treatment.set_by == "-" else [f"set by {treatment.set_by}"]
    return ", ".join(parts)


def _ticks(strip: Strip) -> Iterator[tuple[float, int]]:
    """Yield the place of a layer in per cent of the width, and its number."""
    step = next(
        each for each in (1, 2, 4, 5, 8, 10, 16, 20, 40, 50, 100, strip.layers or 1) if strip.layers <= _TICKS * each
    )
    shown = [*range(0, strip.layers, step)]
    if shown and shown[-1] != strip.layers - 1:
        shown = [each for each in shown if strip.layers - 1 - each > step / 2] + [strip.layers - 1]
    for layer in shown:
        yield 100 * (layer + 1.5) / strip.columns, layer


@dataclass(frozen=True)
class _Panel:
    """A drawing of one optimizer's rates: its path for the rate 1, and each rate's share of the highest."""

    optimizer: str
    hue: int
    path: str
    shares: tuple[float, ...]
    highest: str
    rates: str
    own_warmup: int


def _panel(curves: Curves, hues: _Hues) -> _Panel:
    highest = max((factor for _, factor in curves.factors), default=0.0) or 1.0
    last = max((step for step, _ in curves.factors), default=0) or 1
    points = (f"{1000 * step / last:.4g} {-100 * factor / highest:.4g}" for step, factor in curves.factors)
    rates = [number(each) for each in curves.rates]
    count = len(rates)
    return _Panel(
        curves.optimizer,
        next(hue for (name, _), hue in hues.items() if name == curves.optimizer),
        f"M{'L'.join(points)}" if curves.factors else "",
        tuple(rate / (curves.rates[0] or 1.0) for rate in curves.rates),
        number(curves.rates[0] * highest),
        ", ".join(rates) if count <= 6 else f"{count} rates from {rates[-1]} to {rates[0]}",
        curves.own_warmup,
    )
