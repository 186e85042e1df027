"""Optimizer-state bytes: of a plan before building, and of an optimizer that has stepped.

What a first step on stand-ins leaves in the state is counted. Over ranks the stand-ins are DTensors in torch's fake
process group, so what an engine gathers or keeps whole is counted as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from anyoptim.building.blueprint import Blueprint
from anyoptim.memory.first_step import FEW, Shard, after_one_step, kinds, try_a_step

_COUNTERS = 64
"""Bytes of step counts and the like, which the parameters of a group may share."""


@dataclass(frozen=True)
class StateMemory:
    """How many bytes of state an optimizer holds after its first step.

    Args:
        total: bytes, or ``None`` where no step could be tried.
        method: how they were found, for a person.
    """

    total: int | None
    method: str


def state_memory(plan: Blueprint, shard: Shard | None = None) -> StateMemory:
    """Predict the state bytes of a plan by the optimizer's own first step, on tensors without storage if it can.

    Two parameters of each shape, dtype, role and group stand for all, unless an optimizer keeps its state otherwise.

    Args:
        plan: a plan with param groups; its model may be on the meta device.
        shard: what one of several processes holds of a parameter; all of it if ``None``.
    """
    if not plan.groups:
        return StateMemory(None, "no model")
    return StateMemory(*try_a_step(plan, lambda: _bytes_after_one_step(plan, shard)))


def measured_state_bytes(optimizer: Optimizer) -> int:
    """Count the bytes of every tensor that this process holds for an optimizer besides parameters, wherever it is."""
    held = [optimizer.state, _outside_parameters(optimizer)]
    return _bytes_of(held, _parameters_of(optimizer))


def bytes_held(value: object) -> int:
    """Count the bytes of every tensor in a value, such as the state of one parameter."""
    return _bytes_of(value, set())


def local_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor in this process: of its own piece, where it is sharded."""
    held: Any = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    if is_traceable_wrapper_subclass(held):  # torchao's quantized state has a nominal dtype that it is not stored in
        return sum(local_bytes(getattr(held, name)) for name in held.__tensor_flatten__()[0])
    return int(held.numel() * held.element_size())


def _bytes_after_one_step(plan: Blueprint, shard: Shard | None) -> int:
    """Count the state of all parameters, from that of a few of each kind where it is kept by parameter."""
    if plan.implementation.takes_groups:
        found = bytes_from_few(plan, after_one_step(plan, FEW, shard))
        if found is not None:
            return found
    return measured_state_bytes(after_one_step(plan, None, shard))


def bytes_from_few(plan: Blueprint, optimizer: Optimizer) -> int | None:
    """Count the state of all parameters from that of a few of each kind, which have stepped.

    ``None`` if they do not stand for all: state lies outside of parameters, two of a kind differ, or one holds
    everything (L-BFGS).
    """
    found = bytes_of_each(plan, optimizer)
    return None if found is None else sum(found.values())


def bytes_of_each(plan: Blueprint, optimizer: Optimizer) -> dict[Tensor | None, int] | None:
    """Count the state of each parameter from that of a few of each kind, which have stepped; ``None`` as there.

    What lies outside of parameters is under ``None``.
    """
    seen = _parameters_of(optimizer)
    outside = _outside_parameters(optimizer)
    total = _bytes_of(outside, seen)
    each_has: dict[Tensor | None, int] = {None: total}
    if total > _COUNTERS * len(seen) or len(optimizer.param_groups) != len(plan.groups):
        return None
    holders = 0
    for group, of_group in zip(optimizer.param_groups, kinds(plan), strict=True):
        held = iter(group["params"])
        for same in of_group:
            sizes = [_bytes_of(optimizer.state.get(next(held)), seen) for _ in same[:FEW]]
            if max(sizes) - min(sizes) > _COUNTERS:
                return None
            holders += sum(map(bool, sizes))
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
