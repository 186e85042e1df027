"""The search for an optimizer's learning rate: many rates for a short time, the best of them for the whole time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from anyoptim.comparing.race import Entry, Run

RATES = 6
"""So many are tried at least."""
_SHORT = 5
"""A first trial takes one in so many of the steps."""
_LEAST, _MOST = -14, 8
"""The ends of the grid, 1e-7 and 1e4: where nothing trains."""


def searched(
    entry_of: Callable[[float, int, int], Entry],
    find: Callable[[Entry], Run | None],
    highest: float,
    *,
    steps: int,
    seeds: int,
    late: bool = False,
) -> Iterator[Entry]:
    """Yield the runs that find the best rate, each when those before it are there.

    The six rates up to the highest usual one run for a fifth of the steps, and more as long as the best is the lowest
    or the highest. The best of these and its neighbours run for all steps, again until the best has a neighbour on each
    side, and at the best rate every other seed does. Rates are 1 and 3 times powers of ten.

    Args:
        entry_of: makes a run of a rate, a seed and a number of steps.
        find: the finished run of an entry.
        highest: the highest usual rate.
        steps: of a whole run.
        seeds: how many.
        late: a short run says nothing, so that all are whole.
    """

    def score(place: int, long: int) -> float:
        run = find(entry_of(rate_at(place), 0, long))
        return math.inf if run is None or run.score is None else run.score

    def widened(places: list[int], long: int) -> Iterator[Entry]:
        """Yield runs, ``places`` growing on the side where the best one is the last."""
        for each in places:
            yield entry_of(rate_at(each), 0, long)
        while True:
            best = min(places, key=lambda each: score(each, long))
            further = {min(places): min(places) - 1, max(places): max(places) + 1}.get(best)
            if further is None or not _LEAST <= further <= _MOST or math.isinf(score(best, long)):
                return
            places.append(further)
            yield entry_of(rate_at(further), 0, long)

    top = place_of(highest)
    first = list(range(top - RATES + 1, top + 1))
    short = steps if late else max(steps // _SHORT, 1)
    yield from widened(first, short)
    best = min(first, key=lambda each: score(each, short))
    whole = first if late else [best, best - 1, best + 1]
    if not late:
        yield from widened(whole, steps)
    best = min(whole, key=lambda each: score(each, steps))
    for seed in range(1, seeds):
        yield entry_of(rate_at(best), seed, steps)


def rate_at(place: int) -> float:
    """Return a rate of the grid: 1 and 3 times powers of ten, 0 being 1."""
    return float(f"{(1, 3)[place % 2]}e{place // 2}")


def place_of(rate: float) -> int:
    """Return the place of the rate of the grid that is nearest, by ratio."""
    near = round(2 * math.log10(rate))
    return min(range(near - 1, near + 2), key=lambda each: abs(math.log(rate / rate_at(each))))
