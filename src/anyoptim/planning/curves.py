"""How learning rates go through training: a schedule's factors times each group's rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from anyoptim.building.blueprint import Blueprint
from anyoptim.names.spec import OptimizerSpec
from anyoptim.planning.treatments import treatments


@dataclass(frozen=True)
class Schedule:
    """What ``lr_scheduler_type`` makes of a rate; ``integrations.schedules`` finds it.

    Args:
        name: the type.
        steps: of training.
        warmup: steps in which it rises.
        factors: the step and what rates are multiplied with in it, from the first step to the last.
        note: what has to be known of it, as a sentence; "" if nothing.
    """

    name: str
    steps: int
    warmup: int
    factors: tuple[tuple[int, float], ...]
    note: str = ""


@dataclass(frozen=True)
class Curves:
    """The rates of one optimizer of a plan.

    Args:
        optimizer: its name.
        rates: the distinct rates of its groups, the highest first.
        own_warmup: steps in which it warms up by itself, whatever the schedule does.
        factors: by step, of the schedule and of its own warmup together.
    """

    optimizer: str
    rates: tuple[float, ...]
    own_warmup: int
    factors: tuple[tuple[int, float], ...]


def curves_of(plan: Blueprint, schedule: Schedule) -> Iterator[Curves]:
    """Yield the curves of each optimizer of a plan that has a rate for a schedule to scale."""
    rates: dict[str, set[float]] = {}
    for _, treatment in treatments(plan):
        if isinstance(treatment.rate, (int, float)):
            rates.setdefault(treatment.optimizer, set()).add(float(treatment.rate))
    for name, found in rates.items():
        warmup = _own_warmup(plan, name, schedule.steps)
        factors = [*_with_own(schedule.factors, warmup)]
        yield Curves(name, tuple(sorted(found, reverse=True)), warmup, tuple(factors))


def _with_own(factors: Sequence[tuple[int, float]], warmup: int) -> Iterator[tuple[int, float]]:
    for step, factor in factors:
        yield step, factor * min(1.0, (step + 1) / warmup) if warmup else factor


def _own_warmup(plan: Blueprint, name: str, steps: int) -> int:
    """Return the steps in which a schedule-free optimizer warms up: no schedule does it instead."""
    is_own = name == plan.spec.target_optimizer
    spec: OptimizerSpec | None = plan.spec if is_own else plan.spec.fallback
    if spec is None or not spec.traits.schedule_free:
        return 0
    given = plan.settings.of_scope("optimizer" if is_own else "fallback").get("warmup_steps")
    if isinstance(given, float):  # a share of the steps
        return math.ceil(given * steps)
    return given if isinstance(given, int) else 0
