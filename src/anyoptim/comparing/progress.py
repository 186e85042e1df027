"""How far the work is, for a person who waits: a live bar in a terminal, elsewhere a plain line every few seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import IO, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

EVERY = 8.0
"""Seconds between two lines: never more than ten, also where the machine is busy."""


class Work:
    """A piece of work, and how far it is.

    Args:
        steps: how many it has; 0 where none are counted.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.state = f"step 0 of {steps}" if steps else "going on"

    def step(self, number: int, loss: float) -> None:
        """Tell that a step is done.

        Args:
            number: from 1.
            loss: the training loss of the step.
        """
        self.state = f"step {number} of {self.steps}, loss {loss:.3f}"

    def end(self, outcome: str) -> None:
        """Tell what it came to."""
        self.state = outcome


class Show(Protocol):
    """Shows a piece of work from its start to its end."""

    def __call__(self, what: str, steps: int = 0) -> AbstractContextManager[Work]:
        """Return a context manager around the work, which gives what is to be told how far it is."""


def shown_on(console: Console) -> Show:
    """Return what shows work: the console if it is a terminal, else stderr, so that stdout stays clean."""
    return partial(_as_bar, console) if console.is_terminal else in_lines


class _Bar(Work):
    def __init__(self, steps: int, progress: Progress, what: str) -> None:
        super().__init__(steps)
        self._progress = progress
        self._bar = progress.add_task(what, total=steps, loss="")

    def step(self, number: int, loss: float) -> None:
        self._progress.update(self._bar, completed=number, loss=f"loss {loss:.3f}")

    def end(self, outcome: str) -> None:
        self._progress.update(self._bar, loss=outcome)


@contextmanager
def _as_bar(console: Console, what: str, steps: int = 0) -> Iterator[Work]:
    if not steps:
        with console.status(Text(what)):
            yield Work(steps)
        return
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}", markup=False),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        yield _Bar(steps, progress, what)


@contextmanager
def in_lines(what: str, steps: int = 0, *, file: IO[str] | None = None, every: float = EVERY) -> Iterator[Work]:
    """Write a line when the work begins, when it ends and, as time passes, between.

    Args:
        what: its name; spaces that align it with others are left out.
        steps: how many it has; of work without steps only what takes long is told, so that an error stands alone.
        file: where to; stderr if ``None``.
        every: seconds between two lines.
    """
    to = file or sys.stderr
    name, work, began = " ".join(what.split()), Work(steps), time.monotonic()
    over = threading.Event()

    def tell() -> None:
        print(f"{name}: {work.state}, {time.monotonic() - began:.0f} s", file=to, flush=True)

    def tell_now_and_then() -> None:
        while not over.wait(every):
            tell()

    # a thread, because an import, a model, an evaluation or one large step may take longer, and none of them calls back
    teller = threading.Thread(target=tell_now_and_then, daemon=True)
    if steps:
        print(f"{name}: {steps} steps", file=to, flush=True)
    teller.start()
    try:
        yield work
    finally:
        over.set()
        teller.join()
    if steps:
        tell()
