"""What training holds, as stacked bars: which parts they have, and how a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from anyoptim.memory.footprint import Footprint
from anyoptim.text import format_bytes

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

WIDTH = 80
"""Columns that bars take where there are more."""
_NARROWEST = 24
"""Columns of bars that are worth looking at; names that leave fewer stand above their bars."""
_OVER = "bold red"


@dataclass(frozen=True)
class Part:
    """A part of a bar.

    Args:
        label: what it is called.
        fill: the character that it is drawn with, another for each: pipes have no colours.
        style: rich's style of it.
    """

    label: str
    fill: str
    style: str


PARTS = (
    Part("weights", "█", "blue"),
    Part("behind the weights", "▓", "cyan"),
    Part("weights in fp32", "▚", "bright_blue"),
    Part("gradients", "▒", "yellow"),
    Part("optimizer state", "░", "green"),
    Part("a step's peak", "∙", "magenta"),
)
"""The parts of every bar, in their order."""


def sizes(footprint: Footprint) -> tuple[int, ...]:
    """Return the bytes of each of ``PARTS`` on the device; of state that is unknown none."""
    behind = 0 if footprint.where else footprint.remainder  # it goes where the state goes
    here = 0 if footprint.state is None else footprint.state - footprint.elsewhere - behind
    peak = footprint.step + footprint.exchange + footprint.batch
    return (footprint.weights, behind, footprint.master_weights, footprint.gradients, here, peak)


def total(footprint: Footprint) -> str:
    """Return what all parts come to, for a person."""
    known = format_bytes(sum(sizes(footprint)))
    return known if footprint.total is not None else f"{known} + ?"


def elsewhere(footprint: Footprint) -> str:
    """Return what is in no bar since it lies elsewhere, or ""."""
    if not footprint.elsewhere:
        return ""
    place = "on the disk" if footprint.where == "disk" else f"in the {footprint.where}'s memory"
    return f"and {format_bytes(footprint.elsewhere)} {place}"


def verdict(name: str, footprint: Footprint, memory: int) -> str:
    """Return a sentence on whether training fits.

    Args:
        name: of the optimizer.
        footprint: what its training holds.
        memory: bytes of one process.
    """
    room = format_bytes(memory)
    left = memory - sum(sizes(footprint))
    if left < 0:
        more = format_bytes(-left)
        return f"{name} does not fit into {room}: {more} too much; `anyoptim recommend` lists what does."
    if footprint.total is None:
        return f"Whether {name} fits into {room} is unknown: {format_bytes(left)} are left for its state."
    return f"{name} fits into {room}: {format_bytes(left)} are left for activations."


def memory_bars(
    footprints: Mapping[str, Footprint], *, memory: int | None = None, width: int = WIDTH
) -> RenderableType:
    """Return a bar for each footprint, one below the other, with a legend; it reads well without colours, too.

    Args:
        footprints: by name, at least one.
        memory: bytes of one process: a line through all bars shows where they end.
        width: columns at most; a narrower console gets narrower bars.
    """
    return _Bars(footprints, memory, width)


@dataclass(frozen=True)
class _Bars:
    footprints: Mapping[str, Footprint]
    memory: int | None
    width: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        width = min(self.width, options.max_width)
        yield Text("\n", no_wrap=True, overflow="crop").join(self._lines(width))

    def _lines(self, width: int) -> Iterator[Text]:
        from rich.text import Text

        totals = {name: total(each) for name, each in self.footprints.items()}
        longest, size = max(map(len, self.footprints)), max(map(len, totals.values()))
        above = width - (longest + 2 + size + 2) < _NARROWEST
        indent = 2 if above else longest + 2
        left = indent + size + 2
        largest = max(sum(sizes(each)) for each in self.footprints.values())
        scale = _Scale(max(width - left, 2), largest, self.memory)
        drawn: set[Part] = set()
        for name, footprint in self.footprints.items():
            if above:
                yield Text(name)
            over = self.memory is not None and sum(sizes(footprint)) > self.memory
            line = Text("" if above else name).append(" " * (indent - (0 if above else len(name))))
            line.append(totals[name].rjust(size), _OVER if over else "").append("  ")
            cells = scale.cells(sizes(footprint))
            line.append(_runs(cells[: scale.mark]))
            if scale.mark is not None:
                line.append(" " * (scale.mark - len(cells))).append("│", "bold").append(_runs(cells[scale.mark :]))
            drawn.update(cells)
            yield line
            if footprint.elsewhere:
                yield Text(f"{' ' * indent}{elsewhere(footprint)}", "dim")
        if scale.mark is not None and self.memory is not None:
            label = format_bytes(self.memory)
            fits = left + scale.mark + len(label) + 2 <= width
            yield Text(
                " " * (left + scale.mark) + f"└ {label}" if fits else f"{label} ┘".rjust(left + scale.mark + 1), "bold"
            )
        yield from _legend([each for each in PARTS if each in drawn], width)


class _Scale:
    """Bytes to columns.

    Args:
        width: columns, that of the mark included.
        largest: bytes of the largest bar.
        memory: where the mark stands.
    """

    def __init__(self, width: int, largest: int, memory: int | None) -> None:
        self._memory = memory
        self._columns = width - (memory is not None)
        self._span = max(largest, memory or 0, 1)
        self.mark = None if memory is None else min(max(self._at(memory), 1), self._columns - (largest > memory))

    def _at(self, count: int) -> int:
        return round(count / self._span * self._columns)

    def cells(self, parts: Sequence[int]) -> list[Part]:
        """Return the part in each column of a bar; one that is past the mark is so by one column at least."""
        found: list[Part] = []
        reached = 0
        for part, count in zip(PARTS, parts, strict=True):
            reached += count
            found += [part] * (self._at(reached) - len(found))
        if self.mark is not None and self._memory is not None:
            if reached <= self._memory:
                return found[: self.mark]
            found += [found[-1] if found else PARTS[0]] * (self.mark + 1 - len(found))
        return found


def _runs(cells: Sequence[Part]) -> Text:
    from rich.text import Text

    return Text.assemble(*((part.fill * len([*run]), part.style) for part, run in groupby(cells)))


def _legend(parts: Sequence[Part], width: int) -> Iterator[Text]:
    """Yield what the fills mean, in as many lines as it takes."""
    from rich.text import Text

    line = Text()
    for part in parts:
        if len(line) and len(line) + len(part.label) + 5 > width:
            yield line
            line = Text()
        line.append("   " if len(line) else "").append(part.fill * 2, part.style).append(f" {part.label}")
    yield line
