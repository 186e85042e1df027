"""How good a translated learning rate is: AdamW's best rate to each other name, against the best of its sweep.

    python benchmarks/translate.py       # what is in results/translate/ is not run again

Sweeps are those of ``benchmarks/evidence.py``, as the package knows them. The translated rate is trained for as many
steps, with the seeds of the sweep's best. ``translate_report.py`` makes tables and a picture of what came out.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import typer
from evidence import TASKS

from anyoptim.comparing.progress import Work
from anyoptim.comparing.race import Entry, race_one
from anyoptim.comparing.translating import translate
from anyoptim.planning.evidence import BASELINE, Evidence, evidence, tasks

RESULTS = Path(__file__).parent / "results" / "translate"
FILE = RESULTS / "runs.jsonl"
LEARNT = 0.9
"""Share of wrong answers above which an optimizer learns nothing at any rate, so that none is the best."""


@dataclass(frozen=True)
class Judged:
    """One translation and what came of it.

    Args:
        task: of the evidence.
        name: the optimizer.
        optim_args: what was said to it beside the rate, ``""`` for nothing.
        from_rate: AdamW's best rate.
        rate: what that was translated to.
        fallback_rate: a hybrid's second one, if it is one.
        low: the rate at the tenth percentile of what was measured.
        high: at the ninetieth.
        method: how it was found.
        losses: the task's measure with it, by seed; ``None`` of a training that failed.
    """

    task: str
    name: str
    optim_args: str
    from_rate: float
    rate: float
    fallback_rate: float | None
    low: float
    high: float
    method: str
    losses: list[float | None]

    @property
    def loss(self) -> float:
        """The mean over seeds; no number where one of them failed."""
        return statistics.fmean(float("nan") if each is None else each for each in self.losses)


def main(
    workers: Annotated[int, typer.Option(help="Translations at once, each with one thread.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="These optimizers only.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="These tasks only.")] = None,
) -> None:
    """Translate and train what is not in the file yet."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    done = {(each.task, each.name, each.optim_args) for each in read()}
    wanted = [
        each
        for name in task or tasks()
        for each in judgeable(name)
        if (name, each.name, each.optim_args) not in done and (not only or each.name in only)
    ]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(judged, each): each for each in wanted}
        for future in as_completed(running):
            each = running[future]
            said = f"{(time.perf_counter() - began) / 60:5.1f} min  {each.task}, {each.label}: "
            if error := future.exception():
                print(f"{said}{type(error).__name__}: {error}", flush=True)
                continue
            line = future.result()
            with FILE.open("a") as lines:
                lines.write(json.dumps(asdict(line)) + "\n")
            print(f"{said}{line.method} {line.rate:g}, {line.loss - each.loss:+.3f} of {each.lr:g}", flush=True)


def read() -> list[Judged]:
    """Return what was judged."""
    return [Judged(**json.loads(line)) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def judgeable(task: str) -> Iterator[Evidence]:
    """Yield the sweeps of a task but AdamW's own that have a best rate, with a worse one on each side."""
    for each in evidence(task):
        rates = [rate for rate, _ in each.rates]
        learns = tasks()[task].measure != "wrong answers" or each.loss < LEARNT
        if each.label != BASELINE and learns and min(rates) < each.lr < max(rates):
            yield each


def judged(target: Evidence) -> Judged:
    """Translate AdamW's best rate and train with what comes out."""
    torch.set_num_threads(1)
    task = TASKS[target.task]()
    source = next(each for each in evidence(target.task) if each.label == BASELINE)
    given = {target.name: target.optim_args} if target.optim_args else {}
    found = translate(source.name, target.name, lr=source.lr, task=task, optim_args=given, show=quietly)
    text = str(found.arguments.get("optim_args", ""))
    steps = tasks()[target.task].steps
    runs = [
        race_one(Entry(target.task, target.name, text, found.rate, seed, steps, task.batch_size), task, lambda *_: None)
        for seed in range(target.seeds)
    ]
    return Judged(
        target.task,
        target.name,
        target.optim_args,
        source.lr,
        found.rate,
        found.fallback_rate,
        found.low,
        found.high,
        found.method,
        [run.score for run in runs],
    )


@contextmanager
def quietly(what: str, steps: int = 0) -> Iterator[Work]:
    """Show nothing."""
    yield Work(steps)


if __name__ == "__main__":
    typer.run(main)
