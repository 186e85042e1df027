"""Optimizer-state bytes: of a plan before building, and of an optimizer that has stepped.

What a first step on stand-ins leaves in the state is counted. Over ranks the stand-ins are DTensors in torch's fake
process group, so what an engine gathers or keeps whole is counted as it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from anyoptim.building.blueprint import Blueprint
from anyoptim.engines.compiled_pass import CompiledPass
from anyoptim.engines.composite import inside
from anyoptim.engines.packed_state import SCALE, bytes_in_flight, is_remainder, word_of
from anyoptim.engines.stored import Stored
from anyoptim.engines.stored_batches import step_batches
from anyoptim.memory.first_step import FEW, Shard, after_one_step, kinds, try_a_step
from anyoptim.names.composing import MEMBER

_COUNTERS = 64
"""Bytes of step counts and the like, which the parameters of a group may share."""


@dataclass(frozen=True)
class Held:
    """Bytes of state.

    Args:
        total: all.
        remainder: of these, what lies behind weights in 16 bits.
        scales: of these, the scales of what is packed.
        movable: of these, what may lie elsewhere than the parameter.
    """

    total: int = 0
    remainder: int = 0
    scales: int = 0
    movable: int = 0

    def __add__(self, other: Held) -> Held:
        return Held(*(one + another for one, another in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class StateMemory:
    """How many bytes of state an optimizer holds after its first step.

    Args:
        total: bytes, or ``None`` where no step could be tried.
        method: how they were found, for a person.
        parts: the same, by what they are of.
        in_flight: bytes of the largest batch that a step unpacks, where state is packed.
    """

    total: int | None
    method: str
    parts: Held = Held()
    in_flight: int = 0


def state_memory(plan: Blueprint, shard: Shard | None = None) -> StateMemory:
    """Predict the state bytes of a plan by the optimizer's own first step, on tensors without storage if it can.

    Two parameters of each shape, dtype, role and group stand for all, unless an optimizer keeps its state otherwise.

    Args:
        plan: a plan with param groups; its model may be on the meta device.
        shard: what one of several processes holds of a parameter; all of it if ``None``.
    """
    if not plan.groups:
        return StateMemory(None, "no model")
    found, method = try_a_step(plan, lambda: _after_one_step(plan, shard))
    if found is None:
        return StateMemory(None, method)
    held, in_flight = found
    return StateMemory(held.total, method, held, in_flight)


def measured_state_bytes(optimizer: Optimizer) -> int:
    """Count the bytes of every tensor that this process holds for an optimizer besides parameters, wherever it is."""
    held = [optimizer.state, _outside_parameters(optimizer)]
    return _bytes_of(held, _parameters_of(optimizer))


def bytes_held(value: object) -> Held:
    """Count the bytes of every tensor in a value, such as the state of one parameter."""
    return _held(value, set())


def local_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor in this process: of its own piece, where it is sharded."""
    held: Any = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    if is_traceable_wrapper_subclass(held):  # torchao's quantized state has a nominal dtype that it is not stored in
        return sum(local_bytes(getattr(held, name)) for name in held.__tensor_flatten__()[0])
    return int(held.numel() * held.element_size())


def _after_one_step(plan: Blueprint, shard: Shard | None) -> tuple[Held, int]:
    """Count the state of all parameters, from that of a few of each kind where it is kept by parameter."""
    if plan.implementation.takes_groups:
        optimizer = after_one_step(plan, FEW, shard)
        found = bytes_from_few(plan, optimizer)
        if found is not None:
            return found, in_flight(plan, optimizer)
    optimizer = after_one_step(plan, None, shard)
    return _held_by(optimizer), in_flight(plan, optimizer)


def _held_by(optimizer: Optimizer) -> Held:
    seen = _parameters_of(optimizer)
    total = _held(_outside_parameters(optimizer), seen)
    for key, state in optimizer.state.items():
        if isinstance(key, Tensor):
            total += _held(state, seen)
    return total


def bytes_from_few(plan: Blueprint, optimizer: Optimizer) -> Held | None:
    """Count the state of all parameters from that of a few of each kind, which have stepped.

    ``None`` if they do not stand for all: state lies outside of parameters, two of a kind differ, or one holds
    everything (L-BFGS).
    """
    found = bytes_of_each(plan, optimizer)
    return None if found is None else sum(found.values(), Held())


def bytes_of_each(plan: Blueprint, optimizer: Optimizer) -> dict[Tensor | None, Held] | None:
    """Count the state of each parameter from that of a few of each kind, which have stepped; ``None`` as there.

    What lies outside of parameters is under ``None``.
    """
    seen = _parameters_of(optimizer)
    outside = _outside_parameters(optimizer)
    total = _bytes_of(outside, seen)
    each_has: dict[Tensor | None, Held] = {None: Held(total)}
    if total > _COUNTERS * len(seen) or len(optimizer.param_groups) != len(plan.groups):
        return None
    holders = 0
    for group, of_group in zip(optimizer.param_groups, kinds(plan), strict=True):
        held = iter(group["params"])
        for same in of_group:
            sizes = [_held(optimizer.state.get(next(held)), seen) for _ in same[:FEW]]
            totals = [each.total for each in sizes]
            if max(totals) - min(totals) > _COUNTERS:
                return None
            holders += sum(map(bool, totals))
            each_has.update((each, sizes[min(at, len(sizes) - 1)]) for at, each in enumerate(same))
    # one that flattens all parameters keeps everything under the first
    return None if holders == 1 and len(seen) > 1 else each_has


# ---------------------------------------------------------------- counting


def _parameters_of(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _outside_parameters(optimizer: Optimizer) -> list[object]:
    """Return what an optimizer keeps in its groups, and in its state under keys that are no parameters."""
    parameters = _parameters_of(optimizer)
    return [
        *({**group, "params": None} for group in optimizer.param_groups),
        *(value for key, value in optimizer.state.items() if id(key) not in parameters),
    ]


def _held(state: object, seen: set[int]) -> Held:
    """Count a parameter's state as :func:`_bytes_of`, with what its keys say of it."""
    total = _bytes_of(state, seen)
    named = state.items() if isinstance(state, Mapping) else ()
    own = [(key, value, local_bytes(value)) for key, value in named if isinstance(value, Tensor)]
    return Held(
        total,
        sum(size for key, _, size in own if is_remainder(key)),
        sum(size for key, _, size in own if word_of(key) == SCALE),
        sum(size for _, value, size in own if value.dim()),
    )


def in_flight(plan: Blueprint, optimizer: Optimizer) -> int:
    """Return the bytes of the largest batch that a step unpacks.

    Args:
        plan: what was decided, for all parameters.
        optimizer: built of it, for a few of each kind, or for all in groups of its own; it has stepped.
    """
    largest = 0
    for stored in inside(optimizer, Stored):
        states, given = _states_for_all(plan, optimizer, {group.get(MEMBER) for group in stored.param_groups})
        if stored.form and plan.settings.get("compiled_step"):  # a trial compiles nothing
            compiled, groups = CompiledPass(stored.form, stored.storage), optimizer.param_groups
            given = [(index, each) for index, each in given if not compiled.fits(groups[index], each, states[each])]
        by_rows = {index for index, group in enumerate(optimizer.param_groups) if stored.by_rows(group)}
        for batch in step_batches(given, by_rows=by_rows):
            sizes = (
                bytes_in_flight(states[each.parameter], each.parameter, stored.storage, math.prod(each.shape))
                for each in batch
            )
            largest = max(largest, sum(sizes))
    return largest


def _states_for_all(
    plan: Blueprint, optimizer: Optimizer, members: set[Any]
) -> tuple[dict[Tensor, Mapping[str, Any]], list[tuple[int, Tensor]]]:
    """Return a state for each parameter of some members of a hybrid, and these parameters with their groups' places."""
    of_group = kinds(plan)
    states: dict[Tensor, Mapping[str, Any]] = {}
    given: list[tuple[int, Tensor]] = []
    if len(optimizer.param_groups) != len(of_group):
        of_group = [[[each] for each in group["params"]] for group in optimizer.param_groups]
    for index, (mine, kinds_of_group) in enumerate(zip(optimizer.param_groups, of_group, strict=True)):
        held = iter(mine["params"])
        for same in kinds_of_group:
            few = [optimizer.state.get(each, {}) for each in itertools.islice(held, min(FEW, len(same)))]
            states.update((each, few[min(at, len(few) - 1)]) for at, each in enumerate(same))
        if mine.get(MEMBER) in members:
            given += [(index, each) for same in kinds_of_group for each in same]
    return states, given


def _bytes_of(held: object, seen: set[int]) -> int:
    """Count what is not yet in ``seen``, by id: ``held`` has to live as long as ``seen``."""
    return sum(map(local_bytes, _tensors(held, seen)))


def _tensors(value: object, seen: set[int]) -> Iterator[Tensor]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each, seen)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each, seen)
    elif hasattr(value, "__dict__") and not callable(value):  # a projector, a quantized state
        yield from _tensors(vars(value), seen)
