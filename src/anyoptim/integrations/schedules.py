"""The schedule that a Trainer would apply to a plan's rates, from transformers' own function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from anyoptim.arguments.fields import warmup_steps
from anyoptim.building.blueprint import Blueprint
from anyoptim.errors import OptimError, did_you_mean
from anyoptim.names.packages import need_transformers
from anyoptim.planning.curves import Schedule
from anyoptim.text import said

_POINTS = 200
"""Steps at which a curve is asked for, at most; those where it bends come beside."""
_SUPPOSED = 1_000
"""Steps of a training whose length nobody has said."""


def schedule_of(plan: Blueprint) -> Schedule:
    """Return what ``lr_scheduler_type``, ``warmup_steps`` and ``max_steps`` of a plan's TrainingArguments come to.

    Without a type it is the Trainer's own, and a constant one for a schedule-free optimizer.

    Raises:
        OptimError: there is no such type.
        MissingPackageError: transformers is not installed.
    """
    need_transformers("A schedule")
    fields = plan.fields
    given = fields.get("lr_scheduler_type")
    free = plan.spec.traits.schedule_free
    name = _known(str(getattr(given, "value", given) or ("constant" if free else "linear")))
    asked = warmup_steps(fields) or 0
    steps = int(fields.number("max_steps") or 0)
    supposed = steps < 1
    if supposed:
        steps = max(_SUPPOSED, 10 * math.ceil(asked))
    warmup = math.ceil(asked * steps) if asked < 1 else int(asked)
    try:
        factor = _factor(name, warmup, steps, fields.get("lr_scheduler_kwargs"))
    except Exception as error:  # each type says in its own way what it lacks
        return Schedule(name, steps, warmup, (), f"it cannot be drawn: {said(error)}")
    if factor is None:
        return Schedule(name, steps, warmup, (), "it goes by the loss, so it cannot be drawn before")
    notes = []
    if given is None:
        notes.append(f"lr_scheduler_type='constant' is what {plan.spec.name} needs" if free else "the Trainer's own")
    if supposed:
        notes.append(f"drawn for {steps:,} steps, since max_steps is not given")
    places = {0, steps - 1, *(round(at * (steps - 1) / _POINTS) for at in range(_POINTS))}
    places.update(each for each in (warmup - 1, warmup) if 0 <= each < steps)
    factors = tuple((step, float(factor(step))) for step in sorted(places))
    return Schedule(name, steps, 0 if name == "constant" else warmup, factors, "; ".join(notes))


def _known(name: str) -> str:
    from transformers.trainer_utils import SchedulerType

    names = [each.value for each in SchedulerType]
    if name not in names:
        raise OptimError(
            f"transformers has no schedule {name!r}.{did_you_mean(name, names)} It has {', '.join(names)}."
        )
    return name


def _factor(name: str, warmup: int, steps: int, kwargs: object) -> Callable[[int], float] | None:
    """Return what gives a schedule's factor by step; ``None`` if it depends on more."""
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    more: Any = kwargs or {}
    scheduler: Any = get_scheduler(name, optimizer, warmup, steps, scheduler_specific_kwargs=dict(more))
    by_group = getattr(scheduler, "lr_lambdas", None)
    return by_group[0] if by_group else None
