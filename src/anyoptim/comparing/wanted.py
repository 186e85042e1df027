"""The runs that a comparison wants: of given rates, or of a search for the best one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import anyoptim
from anyoptim.comparing.race import Entry
from anyoptim.comparing.results import Results
from anyoptim.comparing.search import searched
from anyoptim.comparing.tasks import Task
from anyoptim.names.lookup import optimizer_info
from anyoptim.planning.suggestions import suited_arguments, usual_rates

SEARCH = "search"
"""What stands for rates that are searched for."""


class Wanted:
    """The runs of a comparison in their order; those of a search come as those before them are there.

    Args:
        names: registered names.
        task: the task.
        rates: as of :func:`entries`, or ``"search"``.
        seeds: how many.
        steps: of a whole run.
        optim_args: by name.
        results: what is there.

    Raises:
        UnknownOptimizerError: one of the names is not registered.
    """

    def __init__(
        self,
        names: Iterable[str],
        task: Task,
        *,
        rates: Sequence[float] | str,
        seeds: int,
        steps: int,
        optim_args: Mapping[str, str],
        results: Results,
    ) -> None:
        self.names = list(dict.fromkeys(optimizer_info(each).name for each in names))
        self.steps = steps
        self.searches = rates == SEARCH
        self._results = results
        self._begun: list[Entry] = []
        self._fixed: list[Entry] = []
        if self.searches:
            search = (search_of(each, task, results, seeds, steps, optim_args.get(each, "")) for each in self.names)
            self._runs: Iterable[Entry] = (entry for each in search for entry in each)
        else:
            self._runs = self._fixed = entries(
                self.names, task, rates=rates, seeds=seeds, steps=steps, optim_args=optim_args
            )

    def __iter__(self) -> Iterator[Entry]:
        for each in self._runs:
            self._begun.append(each)
            yield each

    @property
    def several(self) -> bool:
        """Whether an optimizer runs more than once."""
        return self.searches or len(self._fixed) > len(self.names)

    @property
    def whole(self) -> list[Entry]:
        """Those that count: all but the short trials of a search."""
        return [each for each in self._begun if each.steps == self.steps] if self.searches else self._fixed

    @property
    def said(self) -> str:
        """What is going to run."""
        if self.searches:
            return f"A search for the best rate of {len(self.names)} optimizers, by runs of {self.steps} steps or less"
        there = sum(self._results.find(each) is not None for each in self._fixed)
        kept = f", {there} of them are in {self._results.path} already" if there else ""
        return f"{len(self._fixed)} runs of {self.steps} steps{kept}"

    def left(self, kept: int) -> str:
        """What goes on after an interrupt, with so many runs kept."""
        return "the search" if self.searches else f"the other {len(self._fixed) - kept}"


def search_of(name: str, task: Task, results: Results, seeds: int, steps: int, optim_args: str = "") -> Iterator[Entry]:
    """Return the runs that find an optimizer's best rate; see :func:`anyoptim.comparing.search.searched`.

    Args:
        name: a registered name.
        task: the task.
        results: what is there.
        seeds: how many run at the best rate.
        steps: of a whole run.
        optim_args: what goes to the optimizer beside.
    """
    width = _width(task)

    def entry(rate: float, seed: int, steps: int) -> Entry:
        return entry_for(task, name, rate, seed=seed, steps=steps, optim_args=optim_args, width=width)

    highest, late = usual_rates(optimizer_info(name))[2], task.accuracy_at is not None
    return searched(entry, results.find, highest, steps=steps, seeds=seeds, late=late)


def entries(
    names: Iterable[str],
    task: Task,
    *,
    rates: Sequence[float] | str,
    seeds: int,
    steps: int,
    optim_args: Mapping[str, str],
) -> list[Entry]:
    """Return the runs of a comparison in their order: by optimizer, rate, seed.

    Args:
        names: registered names.
        task: the task.
        rates: learning rates of every optimizer, ``"auto"`` for the lowest, middle and highest usual one of each, or
            ``"high"`` for the highest.
        seeds: how many, from 0.
        steps: of each run.
        optim_args: by name, what goes to the optimizer beside.

    Raises:
        UnknownOptimizerError: one of the names is not registered.
    """
    wanted = []
    width = _width(task)
    for name in dict.fromkeys(optimizer_info(each).name for each in names):
        low, middle, high = usual_rates(optimizer_info(name))
        chosen = {"auto": [low, middle, high], "high": [high]}.get(rates, []) if isinstance(rates, str) else list(rates)
        for rate in dict.fromkeys(chosen):
            wanted += [
                entry_for(task, name, rate, seed=seed, steps=steps, optim_args=optim_args.get(name, ""), width=width)
                for seed in range(seeds)
            ]
    return wanted


def entry_for(
    task: Task, name: str, rate: float, *, seed: int, steps: int, optim_args: str = "", width: int | None = None
) -> Entry:
    """Return a run of an optimizer with what suits it at a rate.

    Args:
        task: the task.
        name: a registered name.
        rate: the learning rate.
        seed: for weights and data order.
        steps: training steps.
        optim_args: what goes to the optimizer beside.
        width: the model's hidden size, where it is known; else the task makes a model.
    """
    spec = optimizer_info(name)
    suited = suited_arguments(name, learning_rate=rate, width=width or _width(task), optim_args=optim_args)
    text = str(suited.get("optim_args", ""))
    return Entry(task.name, name, text, rate, seed, steps, task.batch_size, _versions(spec.default.package))


def _width(task: Task) -> int | None:
    return getattr(getattr(task.model(), "config", None), "hidden_size", None)


def _versions(package: str) -> dict[str, str]:
    found = {"anyoptim": anyoptim.__version__}
    for each in ("torch", "transformers", package):
        try:
            found[each] = version(each)
        except PackageNotFoundError:
            continue
    return found
