"""Who owns which parameter of a plan, and the state of the process that has most of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from anyoptim.building.across import way_across
from anyoptim.building.blueprint import Blueprint
from anyoptim.engines.matrix_engine import MatrixEngine
from anyoptim.engines.ownership import BATCH_BYTES, batches, owners
from anyoptim.memory.first_step import FEW, Shard, after_one_step, try_a_step
from anyoptim.memory.state import (
    Held,
    StateMemory,
    bytes_held,
    bytes_of_each,
    in_flight,
    measured_state_bytes,
    state_memory,
)
from anyoptim.names.composing import MEMBER


@dataclass(frozen=True)
class Ownership:
    """What each rank owns of a plan's parameters.

    Args:
        of: the owner of each that has one.
        costs: what a step on each takes, in elements or products.
        whole: the most bytes that an owner holds whole at once: gradients, and weights where they travel.
    """

    of: dict[Tensor, int]
    costs: dict[Tensor, float]
    whole: int

    def shares(self, ranks: int) -> list[tuple[int, int, float]]:
        """Return, for each rank, how many parameters it owns, their elements, and its part of the work."""
        total = sum(self.costs.values()) or 1.0
        found = []
        for rank in range(ranks):
            mine = [each for each, owner in self.of.items() if owner == rank]
            work = sum(self.costs[each] for each in mine) / total
            found.append((len(mine), sum(each.numel() for each in mine), work))
        return found


def ownership(plan: Blueprint, ranks: int, *, sharded: bool) -> Ownership:
    """Return what ranks own of a plan's parameters; nothing, where it steps on DTensors or parts.

    As :class:`anyoptim.engines.owned.Owned` decides on every rank.

    Args:
        plan: what was decided.
        ranks: processes.
        sharded: they share the parameters.
    """
    of: dict[Tensor, int] = {}
    costs: dict[Tensor, float] = {}
    whole = 0
    for name, directed in _owned_members(plan, sharded):
        every = [each for group in plan.groups if group.get(MEMBER, name) == name for each in group["params"]]
        cost = [MatrixEngine.cost(each.shape) if directed else float(each.numel()) for each in every]
        owner = owners(cost, ranks)
        of.update(zip(every, owner, strict=True))
        costs.update(zip(every, cost, strict=True))
        sizes = [each.nbytes for each in every]
        order = [(tuple(each.shape), str(each.dtype)) for each in every]
        for batch in batches(owner, sizes, order, BATCH_BYTES):
            for rank in {owner[index] for index in batch}:
                held = sum(sizes[index] for index in batch if owner[index] == rank)
                whole = max(whole, held if directed else 2 * held)
    return Ownership(of, costs, whole)


def _owned_members(plan: Blueprint, sharded: bool) -> Iterator[tuple[str, bool]]:
    """Yield the names of the optimizers inside whose parameters have owners, and whether only directions travel."""
    given = [plan.keywords, plan.settings.of_scope("fallback")]
    for (name, implementation), keywords in zip(plan.members, given, strict=False):
        if way_across(plan, implementation, keywords, sharded=sharded) == "owned":
            kind = implementation.load()
            yield name, isinstance(kind, type) and issubclass(kind, MatrixEngine)


def state_with_owners(plan: Blueprint, owned: Ownership, ranks: int, shard: Shard | None) -> StateMemory:
    """Predict the state of the rank that has most: that of what it owns, and of its part of all else.

    Args:
        plan: what was decided.
        owned: what ranks own of it.
        ranks: processes.
        shard: what the first of them holds of a parameter that nobody owns; all of it if ``None``.
    """
    others = _only(plan, lambda each: each not in owned.of)
    rest = state_memory(others, shard) if any(group["params"] for group in others.groups) else StateMemory(0, "")
    found, method = try_a_step(plan, lambda: _of_each(_only(plan, lambda each: each in owned.of)))
    if rest.total is None or found is None:
        return StateMemory(None, rest.method if rest.total is None else method)
    whole, batch = found
    held = [Held()] * ranks
    for each, owner in owned.of.items():
        held[owner] += whole[each]
    most = max(held, key=lambda each: each.total) + rest.parts + whole[None]
    return StateMemory(most.total, method, most, max(rest.in_flight, batch))


def _of_each(plan: Blueprint) -> tuple[dict[Tensor | None, Held], int]:
    optimizer = after_one_step(plan, FEW)
    found = bytes_of_each(plan, optimizer)
    if found is not None:
        return found, in_flight(plan, optimizer)
    optimizer = after_one_step(plan, None)
    every = [each for group in plan.groups for each in group["params"]]
    stand_ins = [each for group in optimizer.param_groups for each in group["params"]]
    sizes: dict[Tensor | None, Held] = {
        each: bytes_held(optimizer.state.get(one)) for each, one in zip(every, stand_ins, strict=True)
    }
    others = measured_state_bytes(optimizer) - sum(each.total for each in sizes.values())
    return {None: Held(others), **sizes}, in_flight(plan, optimizer)


def _only(plan: Blueprint, chosen: Callable[[Tensor], bool]) -> Blueprint:
    groups = tuple({**group, "params": [each for each in group["params"] if chosen(each)]} for group in plan.groups)
    return replace(plan, groups=groups)  # type: ignore[arg-type]  # groups as they were
