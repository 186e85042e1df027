"""The one flow of a comparison: what is wanted, what is missing, run after run, the report."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from anyoptim.comparing.progress import Show
from anyoptim.comparing.race import Run, race_one
from anyoptim.comparing.report import caveat, table_of, write_report
from anyoptim.comparing.results import Results
from anyoptim.comparing.tasks import Task
from anyoptim.comparing.wanted import Wanted
from anyoptim.errors import MissingPackageError


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Args:
        names: registered names; the baseline joins them.
        task: a model and data.
        rates: learning rates, ``"auto"``, ``"high"`` or ``"search"``; see ``comparing.wanted``.
        seeds: how many.
        steps: of each run; the task's own if ``None``.
        optim_args: by name.
        output: folder of results and report.
        baseline: what the others are held against.
        command: what makes the same comparison again.
    """

    names: Sequence[str]
    task: Task
    output: Path
    command: str
    rates: Sequence[float] | str = "high"
    seeds: int = 1
    steps: int | None = None
    optim_args: Mapping[str, str] = field(default_factory=dict)
    baseline: str = "adamw_torch"


def compare(wanted: Comparison, console: Console, show: Show, *, as_json: bool = False) -> bool:
    """Run what is missing, write the report, print the table; ``False`` if it was interrupted.

    Each finished run is a line of ``results.jsonl`` at once, and is not run again. An interrupt leaves the report of
    what is there.

    Args:
        wanted: the comparison.
        console: for table and sentences.
        show: for the progress of each run.
        as_json: print the runs as JSON, to stdout, in the place of the table.

    Raises:
        UnknownOptimizerError: one of the names is not registered; before anything is trained.
    """
    task = wanted.task
    results = Results(wanted.output / "results.jsonl")
    with show(f"making the model of {task.name}"):
        runs_wanted = Wanted(
            [wanted.baseline, *wanted.names],
            task,
            rates=wanted.rates,
            seeds=wanted.seeds,
            steps=wanted.steps or task.steps,
            optim_args=wanted.optim_args,
            results=results,
        )
    width = max(map(len, runs_wanted.names))
    console.print(f"{task.summary or task.name}")
    console.print(f"{runs_wanted.said}.", style="dim")
    finished = True
    missing: dict[str, str] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for entry in runs_wanted:
                if results.find(entry) is not None or entry.name in missing:
                    continue
                which = f" lr {entry.learning_rate:<8g} seed {entry.seed}" if runs_wanted.several else ""
                with show(f"{entry.name:<{width}}{which}", entry.steps) as work:
                    try:
                        run = race_one(entry, task, work.step)
                    except MissingPackageError as error:
                        missing[entry.name] = str(error)
                        work.end("not installed")
                        continue
                    results.add(run)
                    work.end(run.error[:40] or f"final loss {run.heldout_loss:.3f}")
    except KeyboardInterrupt:
        finished = False
    runs = [run for run in map(results.find, runs_wanted.whole) if run is not None]
    if runs:
        _tell(runs, wanted, console, show, as_json=as_json)
    for sentence in missing.values():
        console.print(Text(f"left out: {sentence}", style="yellow"))
    if not finished:
        left = runs_wanted.left(len(runs))
        console.print(f"Interrupted: {len(runs)} runs are kept, the same command goes on with {left}.")
    return finished


def _tell(runs: Sequence[Run], wanted: Comparison, console: Console, show: Show, *, as_json: bool) -> None:
    with show("writing the report"):
        page = write_report(runs, wanted.task, wanted.output, baseline=wanted.baseline, command=wanted.command)
    if as_json:
        print(json.dumps([asdict(run) for run in runs], indent=2))
        return
    console.print(table_of(runs, wanted.baseline))
    console.print(caveat(wanted.baseline))
    for run in runs:
        if run.error:
            console.print(
                Text(f"{run.entry.name} at lr {run.entry.learning_rate:g}: {run.error}", style="yellow"), soft_wrap=True
            )
    console.print(f"The report: {page}")
