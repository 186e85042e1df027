"""How each parameter is trained: by which optimizer, at which rate and decay, and what set these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from anyoptim.building.blueprint import Blueprint
from anyoptim.names.composing import MEMBER
from anyoptim.routing.routes import Route


class Treatment(NamedTuple):
    """What one parameter's group holds.

    Args:
        optimizer: the one of the plan's members that trains it.
        rate: its learning rate; ``None`` where the optimizer has none.
        decay: its weight decay; ``None`` where the optimizer has none.
        rank: of its low-rank state, or ``"full"``.
        pieces: the matrices that it consists of, or ``-``.
        rule: why it is a target, or ``-``.
        set_by: what adjusts it, with the values that stand nowhere else, or ``-``.
    """

    optimizer: str
    rate: object
    decay: object
    rank: str
    pieces: str
    rule: str
    set_by: str


def treatments(plan: Blueprint) -> Iterator[tuple[Route, Treatment]]:
    """Yield every trainable parameter of a plan with a model, and how it is trained."""
    assert plan.routing is not None
    group_of = {id(parameter): group for group in plan.groups for parameter in group["params"]}
    rates = rates_of_members(plan)
    for route in plan.routing.routes:
        group = group_of[id(route.parameter)]
        member = str(group.get(MEMBER, plan.spec.target_optimizer))
        yield (
            route,
            Treatment(
                member,
                group.get("lr", rates[member]),
                group.get("weight_decay"),
                str(group.get("rank", "full")),
                route.pieces.label if route.pieces else "-",
                route.rule,
                set_by(route),
            ),
        )


def rates_of_members(plan: Blueprint) -> dict[str, object]:
    """Return the learning rate of each optimizer inside; ``None`` of one without."""
    rates = {plan.spec.target_optimizer: plan.settings.get("lr")}
    if plan.spec.fallback is not None:
        setting = plan.settings.of_fallback("lr")
        rates.setdefault(plan.spec.fallback.name, setting.value if setting else None)
    return rates


def set_by(route: Route) -> str:
    """Write what adjusts a route, with the values that have no column of their own."""
    if route.adjustment is None:
        return "-"
    others = [
        f"{key}={value}"
        for key, value in route.adjustment.values.items()
        if key not in ("lr", "lr_ratio", "weight_decay")
    ]
    return f"{route.adjustment.rule}: {', '.join(others)}" if others else route.adjustment.rule


def number(value: object) -> str:
    """Write a hyperparameter's value for a table."""
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
