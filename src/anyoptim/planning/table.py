"""A plan for a person's eyes, and as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from anyoptim.building.blueprint import Blueprint
from anyoptim.memory.footprint import SHARDINGS, Footprint
from anyoptim.memory.owned_state import Ownership, ownership
from anyoptim.memory.state import StateMemory
from anyoptim.planning.bars import memory_bars, verdict
from anyoptim.planning.treatments import Treatment, number, set_by, treatments
from anyoptim.routing.places import shape_of
from anyoptim.routing.routes import Route
from anyoptim.text import collapse, format_bytes, plain

if TYPE_CHECKING:
    from rich.console import RenderableType


def plan_table(
    plan: Blueprint,
    advice: Iterable[str],
    memory: Mapping[str, Footprint],
    ranks: int,
    sharding: str,
    available: int | None,
) -> RenderableType:
    """Return a plan as rich tables: what is built, its hyperparameters, its groups, its memory, its advice.

    Args:
        plan: what was decided.
        advice: what is said of it.
        memory: the footprint of it, and of what stands beside it, by name; empty without a model.
        ranks: processes that the memory is for; see ``Plan.footprint``.
        sharding: how they share it.
        available: bytes that one process has; ``None`` if nobody asks whether it fits.
    """
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
        values.add_row(name, Text(str(setting.value)), setting.source, style=dim)
    parts.append(values)

    if memory:
        groups = Table(box=None, padding=(0, 2, 0, 0), title="parameters", title_justify="left")
        groups.add_column("names", overflow="fold")
        groups.add_column("tensors", justify="right", no_wrap=True)
        groups.add_column("elements", justify="right", no_wrap=True)
        groups.add_column("role", no_wrap=True)
        rows = list(parameter_rows(plan))
        shown = telling(rows)
        for title in shown:
            number = title in ("lr", "weight decay", "rank")
            groups.add_column(title.replace(" ", "\n"), justify="right" if number else "left", overflow="fold")
        for row in rows:
            groups.add_row(*(Text(row[title]) for title in ("names", "tensors", "elements", "role", *shown)))
        parts.append(groups)
        parts += [_memory_table(plan, memory, ranks, sharding), memory_bars(memory, memory=available)]
        if available is not None:
            parts.append(Text(verdict(spec.name, memory[spec.name], available), style="bold"))
        if memory[spec.name].exchange:
            parts.append(_owners_table(ownership(plan, ranks, sharded=SHARDINGS[sharding].weights), ranks))
    for sentence in advice:
        parts.append(Text(f"advice: {sentence}.", style="yellow"))
    return Group(*parts)


def _memory_table(plan: Blueprint, memory: Mapping[str, Footprint], ranks: int, sharding: str) -> RenderableType:
    """Return what a plan's training holds, beside AdamW's."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), title=memory_title(ranks, sharding), title_justify="left")
    table.add_column("")
    for name in (*memory, "bytes each"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in memory_rows(plan, memory):
        table.add_row(*row)
    return Group(table, Text(memory_notes(plan, memory, ranks), style="dim"))


def memory_title(ranks: int, sharding: str) -> str:
    """Return what memory it is."""
    return f"memory of each of {ranks} ranks under {sharding}" if ranks > 1 or sharding != "fsdp2" else "memory"


def memory_rows(plan: Blueprint, memory: Mapping[str, Footprint]) -> Iterator[tuple[str, ...]]:
    """Yield what is held, how much of it by each name, and how much the plan's own is for each trainable element."""
    own, trained = memory[plan.spec.name], _trained(plan)
    for row, label in _MEMORY.items():
        sizes = [getattr(each, row) for each in memory.values()]
        if any(sizes) or row in _ALWAYS:
            yield label.format(where=own.where), *map(format_bytes, sizes), _each(getattr(own, row), trained)


def memory_notes(plan: Blueprint, memory: Mapping[str, Footprint], ranks: int) -> str:
    """Return what stands below the numbers: of how many elements they are, and how they were found."""
    own, trained = memory[plan.spec.name], _trained(plan)
    notes = [f"{trained:,} trainable elements"]
    if ranks == 1 and own.state is not None:
        notes.append(f"{own.state / trained:.3g} bytes of state for each")
    notes += [f"state by {own.state_from}", f"gradients of {own.gradients_of}", "without activations"]
    later = plan.implementation.limits.get("memory", "")
    if later:
        notes.append(later.partition(" (")[0])
    return "; ".join(notes)


def _trained(plan: Blueprint) -> int:
    return sum(route.place.numel for route in plan.routing.routes) if plan.routing else 0


def _owners_table(owned: Ownership, ranks: int) -> RenderableType:
    """Return what each rank owns; ranks that own alike share a row."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), title="owners", title_justify="left")
    for column in ("rank", "parameters", "elements", "work"):
        table.add_column(column, justify="right", no_wrap=True)
    alike: dict[tuple[int, int, float], list[int]] = {}
    for rank, share in enumerate(owned.shares(ranks)):
        alike.setdefault(share, []).append(rank)
    for (count, elements, work), held in alike.items():
        follow = len(held) > 1 and held[-1] - held[0] == len(held) - 1
        which = f"{held[0]} to {held[-1]}, each" if follow else ", ".join(map(str, held))
        table.add_row(which, str(count), f"{elements:,}", f"{work:.1%}")
    return table


_MEMORY = {
    "weights": "weights",
    "remainder": "behind the weights",
    "master_weights": "weights in fp32",
    "gradients": "gradients",
    "moments": "optimizer state",
    "scales": "scales of the state",
    "step": "copies in a step",
    "exchange": "whole at once",
    "batch": "batch in flight",
    "elsewhere": "of this, in the {where}'s memory",
    "total": "together",
}
"""What each row of the table is called, by the part of a footprint that it shows."""
_ALWAYS = frozenset({"weights", "gradients", "moments", "total"})


def _each(size: int | None, elements: int) -> str:
    """Write how many bytes that is for each trainable element."""
    return "?" if size is None else f"{size / elements:.3g}" if elements else "-"


def plan_dict(
    plan: Blueprint,
    advice: Iterable[str],
    state: StateMemory,
    memory: Mapping[str, Footprint],
    ranks: int,
    sharding: str,
    available: int | None,
) -> dict[str, object]:
    """Return a plan as plain values that JSON can hold; arguments as of ``plan_table``, and the bytes of its state."""
    own = memory[plan.spec.name].total if memory else None
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
                "set_by": set_by(route),
                "pieces": route.pieces.label if route.pieces else None,
            }
            for route in (plan.routing.routes if plan.routing else ())
        ],
        "groups": [
            {"tensors": len(group["params"]), **{key: plain(value) for key, value in group.items() if key != "params"}}
            for group in plan.groups
        ],
        "state_bytes": state.total,
        "state_bytes_from": state.method,
        "memory": {
            "ranks": ranks,
            "sharding": sharding if ranks > 1 else None,
            "available": available,
            "fits": None if available is None or own is None else own <= available,
            **{name: each.to_dict() for name, each in memory.items()},
        },
        "owners": _owners(plan, ranks, sharding) if memory and memory[plan.spec.name].exchange else None,
        "advice": list(advice),
    }


def _owners(plan: Blueprint, ranks: int, sharding: str) -> dict[str, int]:
    """Return the rank that owns each parameter which has an owner, by name."""
    of, routes = (
        ownership(plan, ranks, sharded=SHARDINGS[sharding].weights).of,
        plan.routing.routes if plan.routing else (),
    )
    return {each.name: of[each.parameter] for each in routes if each.parameter in of}


_OPTIONAL = ("optimizer", "lr", "weight decay", "rank", "pieces", "target by", "set by")


def telling(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the optional columns of ``parameter_rows`` that say something: one of equal cells does not."""
    return [title for title in _OPTIONAL if len({row[title] for row in rows}) > 1 or title == "weight decay"]


def parameter_rows(plan: Blueprint) -> Iterator[dict[str, str]]:
    """Yield a row for the parameters of one role that one rule puts into one group, layers written as ranges."""
    kinds: dict[tuple[str, Treatment], list[tuple[Route, Treatment]]] = {}
    for route, treatment in treatments(plan):
        kinds.setdefault((str(route.role), treatment._replace(rate=None)), []).append((route, treatment))
    for (role, same), members in kinds.items():
        by_name = {route.name: (route, treatment) for route, treatment in members}
        for text, names in collapse(list(by_name)):
            rates = [by_name[name][1].rate for name in names]
            yield {
                "names": text,
                "tensors": str(len(names)),
                "elements": f"{sum(by_name[name][0].place.numel for name in names):,}",
                "role": role,
                "optimizer": same.optimizer,
                "lr": " … ".join(dict.fromkeys(map(number, (rates[0], rates[-1])))),
                "weight decay": number(same.decay),
                "rank": same.rank,
                "pieces": same.pieces,
                "target by": same.rule,
                "set by": same.set_by,
            }
