"""How optimizers did at their best learning rates on a few small tasks: what ``make evidence`` measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from anyoptim.names.lookup import optimizer_info

BASELINE = "adamw_torch"
"""What the others are held against."""


@dataclass(frozen=True)
class Task:
    """What was trained.

    Args:
        name: of the task.
        title: what it is, in two or three words.
        summary: a sentence.
        steps: of a whole run.
        parameters: of the model.
        measure: what a result's ``loss`` is: the held-out loss in nats, or the share of wrong answers.
    """

    name: str
    title: str
    summary: str
    steps: int
    parameters: int
    measure: str


@dataclass(frozen=True)
class Evidence:
    """What the runs of one optimizer on one task came to.

    Args:
        name: the optimizer.
        optim_args: what was said to it beside the rate, ``""`` for nothing.
        task: the task's name.
        lr: the best learning rate, of 1 and 3 times powers of ten.
        loss: mean of the task's measure at it, over the seeds that came to the end.
        lowest: of these.
        highest: of these.
        seeds: how many.
        rates: loss of the first seed at each rate of a whole run, in order.
        curve: means of the training loss over equal parts of the run at the best rate.
        step: a training step's time in AdamW's, on one CPU core; ``None`` where it was not measured.
        state: bytes of optimizer state for each parameter.
    """

    name: str
    optim_args: str
    task: str
    lr: float
    loss: float
    lowest: float
    highest: float
    seeds: int
    rates: tuple[tuple[float, float], ...]
    curve: tuple[float, ...]
    step: float | None
    state: float

    @property
    def label(self) -> str:
        """The name, with what was said to it."""
        return f"{self.name} {self.optim_args}".strip()


@cache
def _read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "evidence.json").read_text())
    return found


@cache
def tasks() -> dict[str, Task]:
    """Return the tasks by name."""
    return {each["name"]: Task(**each) for each in _read()["tasks"]}


@cache
def evidence(task: str) -> tuple[Evidence, ...]:
    """Return what was measured on a task, the lowest held-out loss first.

    Args:
        task: one of :func:`tasks`.
    """
    found = (
        Evidence(**{**each, "rates": tuple(map(tuple, each["rates"])), "curve": tuple(each["curve"])})
        for each in _read()["results"]
        if each["task"] == task
    )
    return tuple(sorted(found, key=lambda each: (each.loss, each.label)))


def evidence_of(name: str, task: str, optim_args: str = "") -> Evidence | None:
    """Return what was measured of an optimizer on a task, if anything was.

    Args:
        name: a registered name.
        task: one of :func:`tasks`.
        optim_args: what was said to it beside the rate.
    """
    own = optimizer_info(name).name
    return next((each for each in evidence(task) if (each.name, each.optim_args) == (own, optim_args)), None)
