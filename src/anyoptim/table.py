"""A plan for a person's eyes, and as plain values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from anyoptim.engines.composite import MEMBER
from anyoptim.structure import shape_of
from anyoptim.text import collapse, format_bytes, plain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from anyoptim.planning import Plan
    from anyoptim.routing import Route


def plan_table(plan: Plan) -> RenderableType:
    """Return a plan as rich tables: what is built, its hyperparameters, its groups, its advice."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    spec, implementation = plan.spec, plan.implementation
    head = Text()
    head.append(spec.name, style="bold")
    head.append(f": {spec.summary}\n")
    head.append(f"{implementation.name} implementation, {implementation.class_path} of {implementation.package}")
    head.append(f" ({implementation.licence or 'licence not stated'})")
    if spec.fallback is not None:
        other = spec.fallback.default
        head.append(f"\nall that is no target: {spec.fallback.name}, {other.class_path} of {other.package}")
        head.append(f" ({other.licence or 'licence not stated'})")
    parts: list[RenderableType] = [head]

    values = Table(box=None, padding=(0, 2, 0, 0), title="hyperparameters", title_justify="left")
    for column in ("name", "value", "from"):
        values.add_column(column)
    for name, setting in plan.hyperparameters.items():
        dim = "dim" if setting.source == "default" else ""
        values.add_row(name, str(setting.value), setting.source, style=dim)
    parts.append(values)

    if plan.routing is not None:
        groups = Table(box=None, padding=(0, 2, 0, 0), title="parameters", title_justify="left")
        groups.add_column("names", overflow="fold")
        groups.add_column("tensors", justify="right", no_wrap=True)
        groups.add_column("elements", justify="right", no_wrap=True)
        groups.add_column("role", no_wrap=True)
        rows = list(_parameter_rows(plan))
        # a column in which every row is the same says nothing
        shown = [title for title in _OPTIONAL if len({row[title] for row in rows}) > 1 or title == "weight decay"]
        for title in shown:
            number = title in ("lr", "weight decay")
            groups.add_column(title.replace(" ", "\n"), justify="right" if number else "left", overflow="fold")
        for row in rows:
            groups.add_row(*(row[title] for title in ("names", "tensors", "elements", "role", *shown)))
        parts.append(groups)
        trained = sum(route.place.numel for route in plan.routing.routes)
        state = Text(f"{trained:,} trainable elements; optimizer state {format_bytes(plan.state_bytes)}")
        if plan.state_bytes is not None and trained:
            state.append(f", {plan.state_bytes / trained:.3g} bytes per element")
        state.append(f" ({plan.memory.method})", style="dim")
        parts.append(state)
    for sentence in plan.advice:
        parts.append(Text(f"advice: {sentence}.", style="yellow"))
    return Group(*parts)


def plan_dict(plan: Plan) -> dict[str, object]:
    """Return a plan as plain values that JSON can hold."""
    return {
        "name": plan.spec.name,
        "implementation": plan.implementation.name,
        "class": plan.implementation.class_path,
        "package": plan.implementation.package,
        "fallback": plan.spec.fallback.name if plan.spec.fallback else None,
        "hyperparameters": {
            name: {"value": plain(setting.value), "from": setting.source}
            for name, setting in plan.hyperparameters.items()
        },
        "parameters": [
            {
                "name": route.name,
                "shape": list(shape_of(route.parameter)),
                "role": str(route.role),
                "target": route.is_target,
                "decays": route.decays,
                "rule": route.rule,
                "set_by": _set_by(route),
            }
            for route in (plan.routing.routes if plan.routing else ())
        ],
        "groups": [
            {"tensors": len(group["params"]), **{key: plain(value) for key, value in group.items() if key != "params"}}
            for group in plan.groups
        ],
        "state_bytes": plan.state_bytes,
        "state_bytes_from": plan.memory.method,
        "advice": list(plan.advice),
    }


_OPTIONAL = ("optimizer", "lr", "weight decay", "target by", "set by")


def _parameter_rows(plan: Plan) -> Iterator[dict[str, str]]:
    """Yield a row for the parameters of one role that one rule puts into one group, layers written as ranges."""
    assert plan.routing is not None
    group_of = {id(parameter): group for group in plan.groups for parameter in group["params"]}
    kinds: dict[tuple[str, ...], list[Route]] = {}
    for route in plan.routing.routes:
        group = group_of[id(route.parameter)]
        member = str(group.get(MEMBER, plan.spec.target_optimizer))
        decay = _number(group.get("weight_decay"))
        kinds.setdefault((str(route.role), member, decay, route.rule, _set_by(route)), []).append(route)
    for (role, member, decay, rule, set_by), routes in kinds.items():
        by_name = {route.name: route for route in routes}
        rate = plan.settings.get("lr" if member == plan.spec.target_optimizer else "fallback_lr")
        for text, names in collapse(list(by_name)):
            rates = [group_of[id(by_name[name].parameter)].get("lr", rate) for name in names]
            yield {
                "names": text,
                "tensors": str(len(names)),
                "elements": f"{sum(by_name[name].place.numel for name in names):,}",
                "role": role,
                "optimizer": member,
                "lr": " … ".join(dict.fromkeys(map(_number, (rates[0], rates[-1])))),
                "weight decay": decay,
                "target by": rule,
                "set by": set_by,
            }


def _set_by(route: Route) -> str:
    """Write what adjusts a route, with the values that have no column of their own."""
    if route.adjustment is None:
        return "-"
    others = [
        f"{key}={value}"
        for key, value in route.adjustment.values.items()
        if key not in ("lr", "lr_ratio", "weight_decay")
    ]
    return f"{route.adjustment.rule}: {', '.join(others)}" if others else route.adjustment.rule


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
