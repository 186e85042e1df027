"""The runs of a comparison that are there, and what they come to."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anyoptim.comparing.race import Entry, Run


class Results:
    """A file of runs, one JSON object a line, each written when it is finished.

    Args:
        path: the file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._runs = [each for each in map(_read, lines) if each is not None]

    def find(self, entry: Entry) -> Run | None:
        """Return the finished run that was wanted, if it is there."""
        return next((each for each in reversed(self._runs) if each.entry == entry), None)

    def add(self, run: Run) -> None:
        """Write a run."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(run), allow_nan=False) + "\n")
        self._runs.append(run)


def _read(line: str) -> Run | None:
    """Read a line; one that a kill cut off, or that another version wrote, is no run."""
    try:
        values: dict[str, Any] = json.loads(line)
        values["entry"] = Entry(**values["entry"])
        for key in ("losses", "seconds"):
            values[key] = tuple(values[key])
        values["accuracies"] = tuple((step, share) for step, share in values["accuracies"])
        return Run(**values)
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Standing:
    """What the runs of one optimizer come to.

    Args:
        name: the optimizer.
        package: where what ran comes from.
        rate: the learning rate with the lowest mean score; see ``Run.score``.
        best: the runs at that rate, one for each seed.
        runs: all runs, failed ones too.
        relative_step: median step time in units of the baseline's; ``None`` without a baseline.
    """

    name: str
    package: str
    rate: float
    best: tuple[Run, ...]
    runs: tuple[Run, ...]
    relative_step: float | None

    @property
    def heldout(self) -> tuple[float, float, float]:
        """Mean, lowest and highest held-out loss over the seeds at the best rate."""
        losses = [each.heldout_loss for each in self.best if each.heldout_loss is not None]
        return (statistics.fmean(losses), min(losses), max(losses)) if losses else (math.inf, math.inf, math.inf)

    @property
    def by_rate(self) -> dict[float, float]:
        """Mean held-out loss of each rate at which every seed was trained to the end."""
        return {
            rate: statistics.fmean(each.heldout_loss or 0.0 for each in runs)
            for rate, runs in _by_rate(self.runs).items()
            if all(each.heldout_loss is not None for each in runs)
        }

    @property
    def failures(self) -> list[Run]:
        """The runs that ended early."""
        return [each for each in self.runs if each.error]

    @property
    def state_bytes(self) -> int:
        """Optimizer state after training."""
        return max(each.state_bytes for each in self.runs)

    @property
    def accuracy(self) -> float | None:
        """The mean of the last held-out accuracies at the best rate."""
        last = [each.accuracies[-1][1] for each in self.best if each.accuracies]
        return statistics.fmean(last) if last else None


def standings(runs: Sequence[Run], baseline: str) -> list[Standing]:
    """Return what each optimizer came to, the lowest held-out loss first.

    Args:
        runs: of one comparison.
        baseline: whose step time is 1.
    """
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.entry.name, []).append(run)
    times = {name: statistics.median(each.step_seconds for each in of_one) for name, of_one in by_name.items()}
    found = []
    for name, of_one in by_name.items():
        rates = _by_rate(of_one)
        whole = {rate: each for rate, each in rates.items() if all(run.heldout_loss is not None for run in each)}
        best = min(whole, key=lambda rate: _mean(whole[rate]), default=next(iter(rates)))
        relative = times[name] / times[baseline] if times.get(baseline) else None
        run = of_one[0]
        origin = run.implementation if run.implementation == "native" else run.package
        found.append(Standing(name, origin, best, tuple(whole.get(best, ())), tuple(of_one), relative))
    return sorted(found, key=lambda each: (each.heldout[0], each.name))


def _by_rate(runs: Iterable[Run]) -> dict[float, list[Run]]:
    found: dict[float, list[Run]] = {}
    for run in runs:
        found.setdefault(run.entry.learning_rate, []).append(run)
    return found


def _mean(runs: Iterable[Run]) -> float:
    return statistics.fmean(each.score or 0.0 for each in runs)
