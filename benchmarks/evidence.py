"""Which optimizer does well at its best learning rate: three small tasks, through the real Trainer.

    make evidence        # what is in results/evidence/ is not run again

Each optimizer's rate is searched for (see ``anyoptim.comparing.search``); at the best one three seeds run. A worker has
one thread. Each finished run is a line at once, so that the run may be stopped whenever one likes. At the end each is
timed beside AdamW. ``tools/evidence.py`` makes the page and what the package knows of it.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import typer

from anyoptim.comparing.race import Run, race_one
from anyoptim.comparing.results import Results
from anyoptim.comparing.tasks import Task, modular_addition, prose_after_code, text_bytes
from anyoptim.comparing.wanted import search_of
from anyoptim.planning.plan import get_optimizer
from anyoptim.planning.suggestions import suited_arguments

RESULTS = Path(__file__).parent / "results" / "evidence"
SIZES = {"hidden_size": 160, "intermediate_size": 432, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT: Any = {"sizes": SIZES, "length": 64, "batch_size": 4, "heldout_bytes": 16_384}
SEEDS = 3
REPEATS = 15
KEPT = 40
"""Points of a curve that a line holds."""
TASKS: dict[str, Callable[[], Task]] = {
    "bytes": lambda: text_bytes(**TEXT, steps=300),
    "finetune": lambda: prose_after_code(**TEXT, steps=120, before=1500),
    "modular-addition": lambda: modular_addition(prime=31, share=0.5, width=64, batch_size=128, steps=250),
}


@dataclass(frozen=True)
class Subject:
    """What runs: an optimizer, and what is said to it beside the rate."""

    name: str
    optim_args: str = ""


# those that many people use come first, so that an early stop leaves what is asked for most
NAMES = (
    *("adamw_torch", "muon", "lion", "adafactor", "apollo_adamw", "stable_adamw", "schedule_free_adamw", "sgd"),
    *("galore_adamw", "apollo_mini", "adalomo", "schedule_free_radamw", "lomo", "grokadamw", "adopt", "normuon"),
    *("adamuon", "mars", "lamb", "adan", "ademamix", "prodigy", "galore_adafactor", "schedule_free_sgd"),
    *("adamw_8bit", "lion_8bit", "nadam", "radam", "rmsprop", "adagrad", "adamax", "came", "adam_mini"),
    *("laprop", "ranger", "scion", "conda", "fira", "stable_spam", "soap"),
)
SETTINGS = (
    Subject("adamw_torch", "state_dtype=int8"),
    Subject("lion", "state_dtype=int8"),
    Subject("muon", "state_dtype=int8"),
    Subject("lookahead(adamw_torch)"),
    Subject("cautious(adamw_torch)"),
    Subject("schedule_free(lion)"),
)
SUBJECTS = (*map(Subject, NAMES), *SETTINGS)


def main(
    workers: Annotated[int, typer.Option(help="Searches at once, each with one thread.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="These optimizers only.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="These tasks only.")] = None,
) -> None:
    """Run what is not there yet: one task after the other, each optimizer's search by one worker."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    for name in task or TASKS:
        TASKS[name]()  # what it makes once is there before two workers would make it
        subjects = [each for each in SUBJECTS if not only or each.name in only]
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            running = {pool.submit(search, name, each): each for each in subjects}
            for future in as_completed(running):
                each = running[future]
                said = f"{(time.perf_counter() - began) / 60:5.1f} min  {name}, {each.name} {each.optim_args}: "
                error = future.exception()
                print(said + (f"{type(error).__name__}: {error}" if error else future.result()), flush=True)
    if not only and not task:
        write_times()


def search(task_name: str, subject: Subject) -> str:
    """Find an optimizer's best rate on a task, and say what came out."""
    torch.set_num_threads(1)
    task = TASKS[task_name]()
    results = Results(RESULTS / f"{task_name}.jsonl")
    last = None
    for entry in search_of(subject.name, task, results, SEEDS, task.steps, subject.optim_args):
        if results.find(entry) is None:
            results.add(short(race_one(entry, task, lambda *_: None)))
        last = results.find(entry)
    assert last is not None
    loss = "failed" if last.heldout_loss is None else f"{last.heldout_loss:.4f}"
    return f"lr {last.entry.learning_rate:g}, held-out loss {loss}, {1e3 * last.step_seconds:.0f} ms a step"


def short(run: Run) -> Run:
    """Return a run with some points of its curve, each the mean of the losses up to there."""
    count = len(run.losses)
    ends = sorted({round(count * each / KEPT) for each in range(1, KEPT + 1)}) if count else []
    means = [
        round(sum(run.losses[start:end]) / (end - start), 4)
        for start, end in zip([0, *ends], ends, strict=False)
        if end > start
    ]
    return replace(run, losses=tuple(means), seconds=run.seconds[-1:])


def write_times() -> None:
    """Write how long a training step takes with each optimizer, in AdamW's."""
    torch.set_num_threads(1)
    file = RESULTS / "times.jsonl"
    done = (
        {(each["name"], each["optim_args"]) for each in map(json.loads, file.read_text().splitlines())}
        if file.exists()
        else set()
    )
    for subject in SUBJECTS:
        if (subject.name, subject.optim_args) not in done:
            found = {"name": subject.name, "optim_args": subject.optim_args, "step": round(relative_step(subject), 3)}
            with file.open("a") as lines:
                lines.write(json.dumps(found) + "\n")
            print(found, flush=True)


def relative_step(subject: Subject) -> float:
    """Return the median of a training step's time over AdamW's, taken in turns on the model of the text."""
    task = TASKS["bytes"]()
    train: Any = task.train
    batch = torch.stack([train[index]["input_ids"] for index in range(task.batch_size)])
    sides: list[tuple[Any, Any, list[float]]] = []
    for each in (Subject("adamw_torch"), subject):
        torch.manual_seed(0)
        model: Any = task.model()
        suited = suited_arguments(each.name, width=model.config.hidden_size, optim_args=each.optim_args)
        optimizer: Any = get_optimizer(each.name, model, suited)
        getattr(optimizer, "train", lambda: None)()  # what has two kinds of weights begins with the averaged ones
        sides.append((model, optimizer, []))
    for _ in range(REPEATS + 2):
        for model, optimizer, seconds in sides:
            started = time.perf_counter()
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - started)
    adamw, own = (statistics.median(seconds[2:]) for _, _, seconds in sides)
    return own / adamw


if __name__ == "__main__":
    typer.run(main)
