"""What is said, once, of what a monitor has measured: updates that vanish, a layer that explodes, a rate too far up."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import replace

from anyoptim.engines.readings import Reading

VANISHING = 0.5
"""Share of zero updates."""
EXPLODING = 10.0
"""How far a layer moves, in units of the middle one's way."""
FAR = 1.0
"""How far weights move in units of the size with which they began. Sound runs of small models, whose rates are the
highest, stay below 0.5 after the first steps; 0.001 is usual in large ones."""
_SOUND = 0.05
_STEEP = 0.01
"""Below which no layer explodes, however still the others are."""
_FIRST = 5
"""Steps in which moments are young, and updates as large as can be."""
_AT_PEAK = 0.5
"""Of a schedule's rate: in warmup, and as a rate falls to zero, updates are smaller than they should be."""
_FEW = 4
"""Layers among which one is like no other."""


class Advice:
    """Says what readings show, each thing once.

    Args:
        name: of the optimizer.
        mend: what to do against lost updates.
    """

    def __init__(self, name: str, mend: str) -> None:
        self._name = name
        self._mend = mend
        self._said: set[str] = set()

    def __call__(self, reading: Reading) -> list[str]:
        """Return the sentences of a reading that comes after others."""
        found = {kind: sentence for kind, sentence in self._found(reading) if kind not in self._said}
        self._said.update(found)
        return [f"{self._name}: {sentence}." for sentence in found.values()]

    def _found(self, reading: Reading) -> Iterator[tuple[str, str]]:
        """Yield what is wrong, each with the kind that it is."""
        matrices = replace(reading, rows=[row for row in reading.rows if row.label.is_matrix])
        yield from self._vanishing(replace(reading, rows=[row for row in matrices.rows if row.label.rounds]))
        yield from self._exploding(matrices)
        yield from self._far(matrices)

    def _vanishing(self, rounded: Reading) -> Iterator[tuple[str, str]]:
        worst = max(rounded.by_role.items(), key=lambda item: item[1].zero_updates or 0.0, default=None)
        if (
            worst is None
            or rounded.step < _FIRST
            or rounded.at_peak < _AT_PEAK
            or (worst[1].zero_updates or 0.0) <= VANISHING
        ):
            return
        yield (
            "vanishing",
            f"{worst[1].zero_updates:.0%} of the updates of {_spelt(worst[0])} vanish, since weights in 16 bits are"
            f" further apart than they are long; {self._mend}",
        )

    def _exploding(self, matrices: Reading) -> Iterator[tuple[str, str]]:
        strides = matrices.strides(lambda label: label.layer if label.layer.startswith("layer_") else "")
        if len(strides) < _FEW or matrices.step < _FIRST:
            return
        name, size = max(strides.items(), key=lambda item: item[1])
        middle = statistics.median(strides.values())
        if size > max(EXPLODING * middle, _STEEP):
            yield (
                "exploding",
                f"{_spelt(name)} explodes: step {matrices.step} has moved its matrices by {size:.2g} of the size they"
                f" began with, where the middle layer's moved by {middle:.2g}; clip gradients with max_grad_norm, or"
                " give the layer a smaller rate with groups=",
            )

    def _far(self, matrices: Reading) -> Iterator[tuple[str, str]]:
        strides = matrices.strides(lambda label: label.role)
        name, size = max(strides.items(), key=lambda item: item[1], default=("", 0.0))
        if size <= FAR or matrices.step < _FIRST or matrices.estimates_rates:
            return
        lr = matrices.by_role[name].lr
        lower = 10.0 ** -math.ceil(math.log10(size / _SOUND))
        rate, mend = ("", "lower learning_rate") if lr is None else (f" at lr={lr:.2g}", f"try lr={lr * lower:.1g}")
        yield (
            "far",
            f"step {matrices.step} has moved {_spelt(name)} by {size:.2g} times the size it began with{rate}, where"
            f" less than {_SOUND:g} is usual; {mend}",
        )


def _spelt(key: str) -> str:
    return key.replace("_", " ")
