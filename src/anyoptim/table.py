"""A plan for a person's eyes, and as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        groups.add_column("weight\ndecay", justify="right", no_wrap=True)
        if spec.traits.needs_targets:
            groups.add_column("target\nby", overflow="fold", min_width=6)
        for row in _parameter_rows(plan):
            groups.add_row(*row[: len(groups.columns)])
        parts.append(groups)
        trained = sum(route.parameter.numel() for route in plan.routing.routes)
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
        "hyperparameters": {
            name: {"value": plain(setting.value), "from": setting.source}
            for name, setting in plan.hyperparameters.items()
        },
        "parameters": [
            {
                "name": route.name,
                "shape": list(route.parameter.shape),
                "target": route.is_target,
                "decays": route.decays,
                "rule": route.rule,
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


def _parameter_rows(plan: Plan) -> list[tuple[str, str, str, str, str]]:
    assert plan.routing is not None
    weight_decay = plan.settings.get("weight_decay")
    kinds: dict[tuple[str, bool], list[Route]] = {}
    for route in plan.routing.routes:
        kinds.setdefault((route.rule, route.decays), []).append(route)
    rows = []
    for (rule, decays), routes in kinds.items():
        elements = {route.name: route.parameter.numel() for route in routes}
        for text, members in collapse(list(elements)):
            rows.append(
                (
                    text,
                    str(len(members)),
                    f"{sum(elements[name] for name in members):,}",
                    "-" if weight_decay is None else str(weight_decay if decays else 0.0),
                    rule,
                )
            )
    return rows
