"""Optimizer-state bytes: of a plan before building, and of an optimizer that has stepped."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from anyoptim.groups import GroupDict
    from anyoptim.planning import Plan

_LARGEST_REAL_STEP = 2 * 2**30


@dataclass(frozen=True)
class StateMemory:
    """How many bytes of state an optimizer holds after its first step.

    Args:
        total: bytes, or ``None`` where no step could be tried.
        method: how they were found, for a person.
    """

    total: int | None
    method: str


def state_memory(plan: Plan) -> StateMemory:
    """Predict the state bytes of a plan by the optimizer's own first step, on tensors without storage.

    A step that asks for the value of a tensor cannot run that way; there, a real step is tried on one
    parameter of each shape.

    Args:
        plan: a plan with param groups; its model may be on the meta device.
    """
    if not plan.groups:
        return StateMemory(None, "no model")
    try:
        # a stranger's step may raise anything under fake tensors: DataDependentOutputException is one of many
        with FakeTensorMode(allow_non_fake_inputs=True):
            return StateMemory(measured_state_bytes(_after_one_step(plan, plan.groups)), "first step on fake tensors")
    except Exception as reason:
        return _one_step_per_shape(plan, reason)


def measured_state_bytes(optimizer: Optimizer) -> int:
    """Count the bytes of every tensor an optimizer holds besides parameters, wherever it keeps them."""
    seen = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return _bytes_of(optimizer.state, seen) + _bytes_of_groups(optimizer, seen)


def _one_step_per_shape(plan: Plan, reason: Exception) -> StateMemory:
    counts: list[Counter[tuple[torch.Size, torch.dtype]]] = [
        Counter((each.shape, each.dtype) for each in group["params"]) for group in plan.groups
    ]
    largest = max((shape.numel() * dtype.itemsize for count in counts for shape, dtype in count), default=0)
    if largest > _LARGEST_REAL_STEP:
        return StateMemory(None, "a parameter is too large to try a real step on")
    reduced: list[GroupDict] = [
        {**group, "params": [nn.Parameter(torch.empty(shape, dtype=dtype, device="meta")) for shape, dtype in count]}
        for group, count in zip(plan.groups, counts, strict=True)
    ]
    try:
        optimizer = _after_one_step(plan, reduced)
        seen = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        total = _bytes_of_groups(optimizer, seen)
        for group, count in zip(optimizer.param_groups, counts, strict=True):
            for parameter, times in zip(group["params"], count.values(), strict=True):
                total += times * _bytes_of(optimizer.state.get(parameter), seen)
    except Exception as error:  # see state_memory
        return StateMemory(None, f"no step could be tried: {error or reason!r}")
    return StateMemory(total, "a real step per parameter shape")


def _after_one_step(plan: Plan, groups: Sequence[GroupDict]) -> Optimizer:
    """Build a plan's optimizer on stand-ins for the parameters of ``groups``, and let it step once.

    On the CPU whatever the default device, and without drawing from the random numbers of a run. What a
    package warns of at its first step, it says in training.
    """
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stand_ins: list[GroupDict] = [
            {**group, "params": [nn.Parameter(torch.ones(each.shape, dtype=each.dtype)) for each in group["params"]]}
            for group in groups
        ]
        parameters = [parameter for group in stand_ins for parameter in group["params"]]
        params = nn.ParameterList(parameters) if plan.implementation.takes_model else stand_ins
        optimizer = plan.assemble(params)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        train = getattr(optimizer, "train", None)
        if callable(train):  # schedule-free optimizers refuse to step in eval mode
            train()
        optimizer.step()
    return optimizer


def _bytes_of_groups(optimizer: Optimizer, seen: set[int]) -> int:
    return _bytes_of([{**group, "params": None} for group in optimizer.param_groups], seen)


def _bytes_of(held: object, seen: set[int]) -> int:
    # a copy: the id of a temporary may come back as another object's
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(held, set(seen)))


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
