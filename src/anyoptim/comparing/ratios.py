"""What short trainings of two optimizers say about each other: how many times as far one of them moves the weights."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from anyoptim.comparing.updates import Sizes, Trial
from anyoptim.errors import OptimError
from anyoptim.names.role import LINEAR, MATRICES, Role

Counts = Callable[[Sizes], bool]
"""Whether a parameter counts."""

_HIDDEN = (LINEAR - {Role.OUTPUT_HEAD, Role.ROUTER}) | {Role.CONVOLUTION}


@dataclass(frozen=True)
class Ratio:
    """How many times as far the second optimizer moves the weights, over parameters, windows of steps and seeds.

    Args:
        middle: the median.
        low: the tenth percentile.
        high: the ninetieth.
    """

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Moved:
    """How two optimizers move the parameters of one role.

    Args:
        role: the role.
        elements: of all its parameters.
        source: RMS of a change over that of the first weights, the median; ``None`` where these are zero.
        target: the same of the second optimizer.
        source_norm: largest singular value of a change over that of the first weight; ``None`` of vectors.
        target_norm: the same of the second optimizer.
        ratio: of the norms, of vectors that of the RMS.
    """

    role: str
    elements: int
    source: float | None
    target: float | None
    source_norm: float | None
    target_norm: float | None
    ratio: Ratio


def ratio(sources: Sequence[Trial], targets: Sequence[Trial], counts: Counts) -> Ratio:
    """Compare the norms of what the same parameters have changed over the same steps, with the same seeds.

    Args:
        sources: trials of the first optimizer.
        targets: of the second one, with seeds of the first's.
        counts: which parameters.

    Raises:
        OptimError: one of the two moves none of them.
    """
    logs = sorted(math.log(second / first) for first, second in _pairs(sources, targets, counts))
    if not logs:
        raise OptimError(
            f"{sources[0].name} and {targets[0].name} move no weight in common in so few steps; take more --steps."
        )
    return Ratio(*(math.exp(each) for each in (statistics.median(logs), _at(logs, 0.1), _at(logs, 0.9))))


def deciding(trial: Trial) -> Counts:
    """Return which parameters the rate goes by: hidden matrices, else all matrices, else all; a fallback's never."""
    own = [each for each in trial.sizes if not each.in_fallback]
    return _first_of(own, (lambda each: each.role in _HIDDEN, lambda each: each.role in MATRICES))


def deciding_fallback(trial: Trial) -> Counts | None:
    """Return which parameters the rate of a fallback goes by: its matrices, else all; ``None`` without a fallback."""
    own = [each for each in trial.sizes if each.in_fallback]
    return _first_of(own, (lambda each: each.role in MATRICES,)) if own else None


def moved(sources: Sequence[Trial], targets: Sequence[Trial]) -> Iterator[Moved]:
    """Yield how both move each role, in the order of the model; roles that one of the two leaves alone are left out."""
    for role in dict.fromkeys(each.role for each in sources[0].sizes):
        of_role = [each for each in sources[0].sizes if each.role is role]

        def counts(each: Sizes, role: Role = role) -> bool:
            return each.role is role

        if not any(_pairs(sources, targets, counts)):
            continue
        matrices = role in MATRICES
        yield Moved(
            str(role),
            sum(each.elements for each in of_role),
            _relative(sources, counts, lambda each: (each.moved_rms, each.rms)),
            _relative(targets, counts, lambda each: (each.moved_rms, each.rms)),
            _relative(sources, counts, lambda each: (each.moved_norm, each.norm)) if matrices else None,
            _relative(targets, counts, lambda each: (each.moved_norm, each.norm)) if matrices else None,
            ratio(sources, targets, counts),
        )


def _first_of(own: Sequence[Sizes], rules: Sequence[Counts]) -> Counts:
    for rule in rules:
        names = frozenset(each.name for each in own if rule(each))
        if names:
            return lambda each: each.name in names
    names = frozenset(each.name for each in own)
    return lambda each: each.name in names


def _pairs(sources: Sequence[Trial], targets: Sequence[Trial], counts: Counts) -> Iterator[tuple[float, float]]:
    of_seed = {trial.seed: {each.name: each for each in trial.sizes} for trial in sources}
    for trial in targets:
        for second in filter(counts, trial.sizes):
            first = of_seed[trial.seed][second.name]
            yield from (pair for pair in zip(first.moved_norm, second.moved_norm, strict=False) if min(pair) > 0)


def _relative(
    trials: Sequence[Trial], counts: Counts, sizes: Callable[[Sizes], tuple[Sequence[float], float]]
) -> float | None:
    found = [
        value / whole
        for trial in trials
        for values, whole in map(sizes, filter(counts, trial.sizes))
        for value in values
        if whole > 0
    ]
    return statistics.median(found) if found else None


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[round(share * (len(ordered) - 1))]
