"""What is said, once, of what a monitor has measured: updates that vanish, a layer that explodes, a rate too far up."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import replace

from anyoptim.engines.readings import Measured, Reading

VANISHING = 0.5
"""Share of zero updates."""
EXPLODING = 10.0
"""Relative update of a layer in units of the middle one's."""
USUAL, FAR = 1e-3, 0.3
"""Relative updates; the first steps of a small model with small weights may make 0.1."""
_STEEP = 0.01
"""Relative update below which no layer explodes, however still the others are."""
_AT_PEAK = 0.5
"""Of a schedule's rate: in warmup, and as a rate falls to zero, updates are smaller than they should be."""
_FEW = 4
"""Layers among which one is like no other."""


class Advice:
    """Says what two readings one after the other show, each thing once.

    Args:
        name: of the optimizer.
        mend: what to do against lost updates.
    """

    def __init__(self, name: str, mend: str) -> None:
        self._name = name
        self._mend = mend
        self._seen: set[str] = set()
        self._said: set[str] = set()

    def __call__(self, reading: Reading) -> list[str]:
        """Return the sentences of a reading that comes after another."""
        found = dict(self._found(reading))
        due = [kind for kind in found if kind in self._seen and kind not in self._said]
        self._seen = set(found)
        self._said.update(due)
        return [f"{self._name}: {found[kind]}." for kind in due]

    def _found(self, reading: Reading) -> Iterator[tuple[str, str]]:
        """Yield what is wrong, each with the kind that it is."""
        matrices = replace(reading, rows=[row for row in reading.rows if row.label.is_matrix])
        yield from self._vanishing(replace(reading, rows=[row for row in matrices.rows if row.label.rounds]))
        yield from self._exploding(matrices)
        yield from self._far(matrices)

    def _vanishing(self, rounded: Reading) -> Iterator[tuple[str, str]]:
        worst = max(rounded.by_role.items(), key=lambda item: item[1].zero_updates or 0.0, default=None)
        if worst is None or rounded.at_peak < _AT_PEAK or (worst[1].zero_updates or 0.0) <= VANISHING:
            return
        yield (
            "vanishing",
            f"{worst[1].zero_updates:.0%} of the updates of {_spelt(worst[0])} vanish, since weights in 16 bits are"
            f" further apart than they are long; {self._mend}",
        )

    def _exploding(self, matrices: Reading) -> Iterator[tuple[str, str]]:
        layers = {
            name: each.relative_update
            for name, each in matrices.by_layer.items()
            if name.startswith("layer_") and each.relative_update is not None
        }
        if len(layers) < _FEW:
            return
        name, size = max(layers.items(), key=lambda item: item[1])
        middle = statistics.median(layers.values())
        if size > max(EXPLODING * middle, _STEEP):
            yield (
                "exploding",
                f"{_spelt(name)} explodes: step {matrices.step} has moved its matrices by {size:.2g} of their size,"
                f" where the middle layer's moved by {middle:.2g}; clip gradients with max_grad_norm, or give the"
                " layer a smaller rate with groups=",
            )

    def _far(self, matrices: Reading) -> Iterator[tuple[str, str]]:
        worst = max(matrices.by_role.items(), key=_relative, default=None)
        if worst is None or matrices.at_peak < _AT_PEAK or _relative(worst) <= FAR:
            return
        measured = worst[1]
        rate = "" if measured.lr is None else f" at lr={measured.lr:.2g}"
        lower = 10.0 ** -round(math.log10(_relative(worst) / USUAL))
        mend = "lower learning_rate" if measured.lr is None else f"try a rate near {measured.lr * lower:.0e}"
        yield (
            "far",
            f"step {matrices.step} has moved {_spelt(worst[0])} by {_relative(worst):.2g} of their size{rate}, where"
            f" about {USUAL:g} is usual; {mend}",
        )


def _relative(item: tuple[str, Measured]) -> float:
    return item[1].relative_update or 0.0


def _spelt(key: str) -> str:
    return key.replace("_", " ")
