"""The report of a comparison: pictures, and one page that holds them and needs nothing else."""

from __future__ import annotations

import base64
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from anyoptim.comparing.plots import draw
from anyoptim.comparing.race import Run
from anyoptim.comparing.results import Standing, standings
from anyoptim.comparing.tasks import Task
from anyoptim.text import format_bytes

_CAVEAT = "One short training on one small task: no ranking of optimizers."


def write_report(runs: Sequence[Run], task: Task, folder: Path, *, baseline: str, command: str) -> Path:
    """Write the PNGs and ``report.html``, and return the page's path.

    Args:
        runs: of one comparison, at least one.
        task: what they trained.
        folder: where the files go.
        baseline: the optimizer that the others are held against.
        command: what makes the same comparison again.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    found = standings(runs, baseline)
    pictures = [
        {"caption": each.caption, "data": f"data:image/png;base64,{base64.b64encode(each.path.read_bytes()).decode()}"}
        for each in draw(found, folder, baseline=baseline, unit="training loss")
    ]
    entries = [run.entry for run in runs]
    seeds, steps = len({each.seed for each in entries}), sorted({each.steps for each in entries})
    page = (
        Environment(loader=PackageLoader("anyoptim.comparing", ""), autoescape=select_autoescape(default=True))
        .get_template("report.html.j2")
        .render(
            title=f"{len(found)} optimizers on {task.name}",
            summary=task.summary or f"The task {task.name}.",
            settings=f"{len(runs)} runs through the Trainer: {', '.join(map(str, steps))} steps of"
            f" {task.batch_size} examples, {seeds} seed{'s' if seeds > 1 else ''}, weight decay {task.weight_decay:g},"
            f" {platform.system()} {platform.machine()} with {os.cpu_count()} cores.",
            standings=[_Row(each) for each in found],
            has_accuracy=any(each.accuracy is not None for each in found),
            baseline=baseline,
            pictures=pictures,
            failures=[run for each in found for run in each.failures],
            command=command,
            versions=", ".join(sorted({f"{name} {each}" for one in entries for name, each in one.versions.items()})),
            caveat=_CAVEAT,
            bytes=format_bytes,
        )
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


class _Row:
    """A standing with its held-out loss as text."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self.heldout_text = heldout_text(standing)

    def __getattr__(self, name: str) -> object:
        return getattr(self._standing, name)


def heldout_text(standing: Standing) -> str:
    """Write the mean held-out loss, and its range over several seeds."""
    if not standing.best:
        return "failed"
    mean, low, high = standing.heldout
    return f"{mean:.3f}" if len(standing.best) == 1 else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def table_of(runs: Sequence[Run], baseline: str) -> Table:
    """Return what each optimizer came to, for a terminal."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    found = standings(runs, baseline)
    has_accuracy = any(each.accuracy is not None for each in found)
    table.add_column("optimizer", no_wrap=True)
    table.add_column("from", no_wrap=True)
    accuracy = ("held-out\naccuracy",) if has_accuracy else ()
    for column in ("lr", "first\nloss", "last\nloss", "held-out\nloss", *accuracy, "step\ntime", "optimizer\nstate"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in found:
        losses = each.best[0].losses if each.best else ()
        cells = [each.name, each.package, f"{each.rate:g}" if each.best else "-"]
        cells += [f"{losses[0]:.3f}", f"{losses[-1]:.3f}"] if losses else ["-", "-"]
        cells.append(heldout_text(each))
        if has_accuracy:
            cells.append("-" if each.accuracy is None else f"{each.accuracy:.1%}")
        cells += ["-" if each.relative_step is None else f"{each.relative_step:.2f}x", format_bytes(each.state_bytes)]
        table.add_row(*cells)
    return table


def caveat(baseline: str) -> Text:
    """Return what a reader of the table has to know."""
    return Text(f"Step time relative to {baseline}. {_CAVEAT}", style="dim")
