"""A section of the report: rows of plain data, found one after the other until the time is up."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["pass", "fail", "limit", "n/a", "measured", "not run"]


@dataclass(frozen=True)
class Row:
    """What was found of one name.

    Args:
        name: as in ``optim=``, or what else the row is about.
        verdict: ``"measured"`` where there is a number and no promise.
        evidence: one line.
        numbers: columns of their own.
        details: for the JSON only.
    """

    name: str
    verdict: Verdict
    evidence: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A table of the report, and what it is a table of."""

    title: str
    about: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Sizes:
    """How large, how often, and until when.

    Args:
        stepped: width, layers and vocabulary of the model whose steps are only compared.
        timed: those of the model whose steps are timed and whose memory is measured.
        stored: those of the model in bf16 whose weights and state are packed; a billion parameters.
        rank: of low-rank optimizers on that one.
        repeats: timed steps of each optimizer.
        copied: bytes of the copy that gives the bandwidth.
        catalogue: names of packages that the kit checks beside our engines.
        checks: those of the kit that are made; all that a device can change if ``None``.
        deadline: of ``time.monotonic``; rows that would begin later are not run.
    """

    stepped: tuple[int, int, int] = (128, 2, 512)
    timed: tuple[int, int, int] = (1024, 8, 32000)
    stored: tuple[int, int, int] = (2048, 22, 32000)
    rank: int = 128
    repeats: int = 11
    copied: int = 2**30
    catalogue: int = 30
    checks: tuple[str, ...] | None = None
    deadline: float = float("inf")


FULL = Sizes()
TINY = Sizes(stepped=(16, 1, 24), timed=(16, 1, 24), stored=(64, 1, 64), rank=4, repeats=2, copied=2**16, catalogue=1)
"""For a CPU, where the code is tried and nothing is learnt."""
OUT_OF_TIME = "out of time"


def section(title: str, about: str, subjects: Iterable[str], measure: Callable[[str], Row], deadline: float) -> Section:
    """Measure one subject after the other, and tell of each on stderr.

    Args:
        title: of the section.
        about: what it shows, in a sentence or two.
        subjects: the names of the rows.
        measure: finds a row; what it raises is a failure.
        deadline: see :class:`Sizes`.
    """
    rows = []
    for name in subjects:
        row = Row(name, "not run", OUT_OF_TIME) if time.monotonic() >= deadline else _tried(measure, name)
        sys.stderr.write(f"{title}: {row.verdict:8} {row.name}  {row.evidence}\n")
        rows.append(row)
    return Section(title, about, tuple(rows))


def first_line(error: BaseException) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _tried(measure: Callable[[str], Row], name: str) -> Row:
    try:
        return measure(name)
    except Exception as error:  # a stranger's optimizer, or a device, may raise anything
        return Row(name, "fail", first_line(error))
