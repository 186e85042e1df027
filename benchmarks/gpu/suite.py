"""All sections, one after the other, into one report."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.gpu import capture, devices, kit, peak_memory, report, step_times, stored, sync
from benchmarks.gpu.accelerator import accelerator
from benchmarks.gpu.section import Row, Section, Sizes, first_line

SECTIONS: tuple[Callable[[str, Sizes], Section], ...] = (
    sync.run,
    devices.run,
    peak_memory.run,
    step_times.run,
    stored.run,
    capture.run,
    kit.run,
)
"""The kit comes last: it takes as long as the rest together, and it is what may be cut short."""


def measure(device: str, sizes: Sizes, folder: Path) -> Sequence[Section]:
    """Run every section and write the report after each, so that a crash loses one section only."""
    name = accelerator(device).name
    sections: list[Section] = []
    for run in SECTIONS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sections.append(_finished(run, device, sizes))
        page, data = report.write(folder, name, sections)
    sys.stderr.write(f"{page} and {data.name} are written\n")
    return sections


def failed(sections: Sequence[Section]) -> list[Row]:
    """Return the rows that break a promise."""
    return [row for each in sections for row in each.rows if row.verdict == "fail"]


def _finished(run: Callable[[str, Sizes], Section], device: str, sizes: Sizes) -> Section:
    try:
        return run(device, sizes)
    except Exception as error:  # what one section finds on a strange machine must not hide the others
        title = run.__module__.rpartition(".")[2].replace("_", " ")
        return Section(title, "This section could not begin.", (Row("all rows", "fail", first_line(error)),))
