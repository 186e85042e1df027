"""What a monitor has measured of one step, as plain numbers: of each parameter, by role and by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

PREFIX = "monitor/"
"""What stands before each key of a log."""

_NEAR_ZERO = 1e-3
"""The RMS of weights below which they are new, whatever an update is in units of it."""


@dataclass(frozen=True)
class Label:
    """What is known of a parameter before training.

    Args:
        role: what it is for, as keys have it: ``hidden_matrix``.
        layer: ``layer_00`` for the first; empty where the model has no layers.
        is_matrix: it is the weight of a linear map whose size says something: neither an embedding nor a new LoRA B.
        rounds: updates that its dtype cannot hold are lost.
        rate: the key of its group that holds the learning rate of the last step.
    """

    role: str = "other"
    layer: str = ""
    is_matrix: bool = False
    rounds: bool = False
    rate: str = "lr"


class Sums(NamedTuple):
    """Of one parameter, estimated from samples but for the gradient.

    Args:
        updates: of the squares of how far its elements moved.
        weights: of their squares before the step.
        still: of those with a gradient, how many did not move.
        driven: how many have a gradient other than zero; all where that is known after the step only.
        gradients: of the gradient's squares.
        elements: how many were measured.
    """

    updates: float
    weights: float
    still: float
    driven: float
    gradients: float
    elements: float


@dataclass(frozen=True)
class Measured:
    """What one step did to the weights of a role or of a layer; ``None`` where there is no such number.

    Args:
        update_rms: how far an element moved.
        relative_update: that, in units of the weights' own RMS.
        zero_updates: the share of elements that have a gradient and did not move.
        grad_norm: of all gradients, as the step got them.
        lr: the learning rate that the step applied, the mean over elements.
    """

    update_rms: float
    relative_update: float | None
    zero_updates: float | None
    grad_norm: float
    lr: float | None


@dataclass(frozen=True)
class Row:
    """One parameter in a measured step.

    Args:
        label: what is known of it.
        sums: what was measured.
        lr: the learning rate that was applied.
        began: the sum of its squares when its steps began; of weights that began near zero, now.
    """

    label: Label
    sums: Sums
    lr: float | None
    began: float

    @classmethod
    def of(cls, label: Label, sums: Sums, lr: float | None, first: Sums | None) -> Row:
        """Return a row.

        Args:
            label: what is known of the parameter.
            sums: what was measured.
            lr: the learning rate.
            first: what was measured in the first step.
        """
        grown = first is None or first.weights < sums.elements * _NEAR_ZERO**2
        return cls(label, sums, lr, sums.weights if grown or first is None else first.weights)


@dataclass(frozen=True)
class Reading:
    """One measured step.

    Args:
        step: its number since the optimizer was built, the first is 1.
        rows: the parameters that had a gradient.
        at_peak: the applied learning rate in units of the schedule's own; 1 without a schedule.
        estimates_rates: the optimizer finds its step size by itself.
    """

    step: int
    rows: Sequence[Row]
    at_peak: float = 1.0
    estimates_rates: bool = False

    @cached_property
    def by_role(self) -> dict[str, Measured]:
        """What was measured, by role."""
        return self.by(lambda label: label.role)

    @cached_property
    def by_layer(self) -> dict[str, Measured]:
        """What was measured, by layer; empty for a model without layers."""
        return self.by(lambda label: label.layer)

    def by(self, key: Callable[[Label], str]) -> dict[str, Measured]:
        """Return what was measured of the parameters that share a key, but for those whose key is empty."""
        return {name: self._measured(rows) for name, rows in self._rows_by(key).items()}

    def _rows_by(self, key: Callable[[Label], str]) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            if key(row.label):
                found.setdefault(key(row.label), []).append(row)
        return dict(sorted(found.items()))

    def _measured(self, rows: Sequence[Row]) -> Measured:
        sums = Sums(*map(sum, zip(*(row.sums for row in rows), strict=True)))
        rated = [(row.lr, row.sums.elements) for row in rows if row.lr is not None]
        return Measured(
            update_rms=math.sqrt(sums.updates / sums.elements),
            relative_update=math.sqrt(sums.updates / sums.weights) if sums.weights else None,
            zero_updates=sums.still / sums.driven if sums.driven else None,
            grad_norm=math.sqrt(sums.gradients),
            lr=_mean(rated),
        )

    def strides(self, key: Callable[[Label], str]) -> dict[str, float]:
        """Return how far weights moved, in units of the size with which they began.

        A rate that is too high makes weights so large that its updates look small beside them.
        """
        return {
            name: math.sqrt(sum(row.sums.updates for row in rows) / sum(row.began for row in rows))
            for name, rows in self._rows_by(key).items()
            if any(row.began for row in rows)
        }

    def flat(self) -> dict[str, float]:
        """Return all numbers by the keys of the Trainer's logs, ``monitor/update_rms/hidden_matrix``."""
        return {
            f"{PREFIX}{measure}/{name}": value
            for measured in (self.by_role, self.by_layer)
            for name, each in measured.items()
            for measure, value in vars(each).items()
            if value is not None
        }


def _mean(weighted: Sequence[tuple[float, float]]) -> float | None:
    """Return the mean of numbers, each with its weight; of equal ones that very number."""
    if not weighted:
        return None
    numbers = [number for number, _ in weighted]
    if min(numbers) == max(numbers):
        return numbers[0]
    return sum(number * weight for number, weight in weighted) / sum(weight for _, weight in weighted)
