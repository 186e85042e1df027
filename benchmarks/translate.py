"""How good a translated learning rate is: AdamW's best rate to each other name, against the best of its sweep.

    python benchmarks/translate.py benchmarks/results/evidence/*.jsonl --tasks evidence:TASKS
    python benchmarks/translate.py --report

A line of the evidence is a run: task, name, optim_args, rate, seed, steps, heldout, or what ``anyoptim compare``
writes. A name's runs of the most steps are its sweep. A line of the results is one translation, trained for as many
steps with the seed of the sweep.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import typer

from anyoptim.comparing.progress import Work
from anyoptim.comparing.race import Entry, race_one
from anyoptim.comparing.task_loading import load_task
from anyoptim.comparing.tasks import Task
from anyoptim.comparing.translating import translate

RESULTS = Path(__file__).parent / "results" / "translate"
BASELINE = "adamw_torch"
NEAR = (0.02, 0.05, 0.1, 0.2)
"""Nats within which the best of the sweep is counted as met."""


@dataclass(frozen=True)
class Sweep:
    """What is known of one name on one task.

    Args:
        task: the task's name.
        name: the optimizer.
        optim_args: the user's, without what a sweep sets with the rate.
        steps: of a run.
        seed: the one that every rate has.
        losses: held-out loss by rate, of that seed.
    """

    task: str
    name: str
    optim_args: str
    steps: int
    seed: int
    losses: dict[float, float]

    @property
    def whole(self) -> bool:
        """Whether the best rate has a worse one on each side."""
        return min(self.losses) < self.best < max(self.losses)

    @property
    def best(self) -> float:
        """The rate of the lowest loss."""
        return min(self.losses, key=lambda rate: self.losses[rate])


def main(
    evidence: Annotated[list[Path] | None, typer.Argument(help="Files of runs.")] = None,
    tasks: Annotated[str, typer.Option(help="module:TABLE of what makes the tasks of the evidence, by name.")] = "",
    workers: Annotated[int, typer.Option(help="Translations at once, each with one thread.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="These optimizers only.")] = None,
    report: Annotated[bool, typer.Option("--report", help="Only say what came out.")] = False,
) -> None:
    """Translate and train what is not in the file yet, then say how far the translated rates are from the best."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / "runs.jsonl"
    done = read(file)
    if not report:
        found = sweeps(line for path in evidence or () for line in read(path))
        known = {(each["task"], each["name"], each["optim_args"]) for each in done}
        wanted = [
            (found[each.task, BASELINE, ""], each)
            for key, each in found.items()
            if key not in known
            and each.whole
            and key != (each.task, BASELINE, "")
            and (each.task, BASELINE, "") in found
            and (not only or each.name in only)
        ]
        for line in judged_all(wanted, tasks, workers):
            with file.open("a") as lines:
                lines.write(json.dumps(line) + "\n")
        done = read(file)
    for line in told(done):
        print(line)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def sweeps(lines: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], Sweep]:
    """Return what is known of each name on each task: runs of the most steps and the seed that has the most rates."""
    of_each: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in map(flat, lines):
        if line["heldout"] is not None:
            of_each[line["task"], line["name"], line["optim_args"]].append(line)
    found = {}
    for key, runs in of_each.items():
        steps = max(each["steps"] for each in runs)
        by_seed: dict[int, dict[float, float]] = defaultdict(dict)
        for each in runs:
            if each["steps"] == steps:
                by_seed[each["seed"]][each["rate"]] = each["heldout"]
        seed = max(by_seed, key=lambda each: len(by_seed[each]))
        found[key] = Sweep(*key, steps, seed, by_seed[seed])
    return found


def flat(line: dict[str, Any]) -> dict[str, Any]:
    """Return a run as one level of fields; of its arguments, a fallback's rate goes with the rate."""
    entry = line.get("entry", line)
    given = [each for each in entry["optim_args"].split(",") if each and not each.startswith(("fallback_lr=", "rank="))]
    return {
        **{key: entry[key] for key in ("task", "name", "seed", "steps")},
        "optim_args": ",".join(given),
        "rate": entry.get("rate", entry.get("learning_rate")),
        "heldout": line.get("heldout", line.get("heldout_loss")),
    }


def judged_all(wanted: list[tuple[Sweep, Sweep]], tasks: str, workers: int) -> Iterator[dict[str, Any]]:
    """Yield judgements as they come to their end."""
    began = time.perf_counter()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(judged, *each, tasks): each[1] for each in wanted}
        for future in as_completed(running):
            each = running[future]
            said = f"{(time.perf_counter() - began) / 60:5.1f} min  {each.task}, {each.name} {each.optim_args}: "
            if error := future.exception():
                print(f"{said}{type(error).__name__}: {error}", flush=True)
                continue
            line = future.result()
            print(f"{said}{line['method']} {line['translated_rate']:g}, best {line['best_rate']:g}", flush=True)
            yield line


def judged(source: Sweep, target: Sweep, tasks: str) -> dict[str, Any]:
    """Translate AdamW's best rate and train with what comes out.

    Args:
        source: AdamW's runs.
        target: the other one's.
        tasks: see ``main``.
    """
    torch.set_num_threads(1)
    task = task_of(target.task, tasks)
    given = {target.name: target.optim_args} if target.optim_args else {}
    found = translate(
        source.name,
        target.name,
        lr=source.best,
        task=task,
        optim_args=given,
        show=quietly,
    )
    text = str(found.arguments.get("optim_args", ""))
    entry = Entry(target.task, target.name, text, found.rate, target.seed, target.steps, task.batch_size)
    run = race_one(entry, task, lambda *_: None)
    best = min(target.losses.values())
    return {
        "task": target.task,
        "name": target.name,
        "optim_args": target.optim_args,
        "from_rate": source.best,
        "translated_rate": found.rate,
        "fallback_rate": found.fallback_rate,
        "low": found.low,
        "high": found.high,
        "method": found.method,
        "best_rate": target.best,
        "heldout": run.heldout_loss,
        "best": best,
        "difference": None if run.heldout_loss is None else run.heldout_loss - best,
        "error": run.error,
    }


def task_of(name: str, tasks: str) -> Task:
    """Return a task of the evidence by its name."""
    if not tasks:
        return load_task(name)
    module, _, table = tasks.partition(":")
    made: Task = getattr(importlib.import_module(module), table)[name]()
    return made


@contextmanager
def quietly(what: str, steps: int = 0) -> Iterator[Work]:
    """Show nothing."""
    yield Work(steps)


def told(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the report: every judgement, the worst first, then the whole distribution by task and method."""
    ordered = sorted(lines, key=lambda each: -math.inf if each["difference"] is None else -each["difference"])
    for each in ordered:
        gap = "failed" if each["difference"] is None else f"{each['difference']:+.3f}"
        yield (
            f"{each['task']:<18} {each['name']:<22} {each['optim_args']:<20} {each['method']:<9}"
            f" {each['translated_rate']:<8g} best {each['best_rate']:<8g} {gap}"
        )
    groups: dict[str, list[float]] = defaultdict(list)
    for each in lines:
        gap = math.inf if each["difference"] is None else each["difference"]
        for group in ("all", each["task"], each["method"]):
            groups[group].append(gap)
    for group, gaps in groups.items():
        shares = ", ".join(f"{sum(gap <= near for gap in gaps) / len(gaps):.0%} within {near:g}" for near in NEAR)
        yield f"{group}: {len(gaps)} translations, median {statistics.median(gaps):+.3f}, {shares}"


if __name__ == "__main__":
    typer.run(main)
