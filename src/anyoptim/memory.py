"""Optimizer-state bytes: of a plan before building, and of an optimizer that has stepped."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
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
            return StateMemory(_after_one_step(plan, plan.groups), "first step on fake tensors")
    except Exception as reason:
        return _one_step_per_shape(plan, reason)


def measured_state_bytes(optimizer: Optimizer) -> int:
    """Count the bytes of every tensor an optimizer holds besides parameters, wherever it keeps them."""
    seen = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    total = 0
    held = [optimizer.state, *({**group, "params": None} for group in optimizer.param_groups)]
    for tensor in _tensors(held, seen):
        total += tensor.numel() * tensor.element_size()
    return total


def _one_step_per_shape(plan: Plan, reason: Exception) -> StateMemory:
    total = 0
    for group in plan.groups:
        by_shape: dict[tuple[torch.Size, torch.dtype], int] = {}
        for parameter in group["params"]:
            key = (parameter.shape, parameter.dtype)
            by_shape[key] = by_shape.get(key, 0) + 1
        for (shape, dtype), count in by_shape.items():
            if shape.numel() * dtype.itemsize > _LARGEST_REAL_STEP:
                return StateMemory(None, f"a parameter of shape {tuple(shape)} is too large to try a real step on")
            one: GroupDict = {**group, "params": [nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"))]}
            try:
                total += count * _after_one_step(plan, [one])
            except Exception as error:  # see state_memory
                return StateMemory(None, f"no step could be tried: {error or reason!r}")
    return StateMemory(total, "a real step per parameter shape")


def _after_one_step(plan: Plan, groups: list[GroupDict] | tuple[GroupDict, ...]) -> int:
    stand_ins: list[GroupDict] = [
        {
            **group,
            "params": [
                nn.Parameter(torch.ones(each.shape, dtype=each.dtype, device="cpu")) for each in group["params"]
            ],
        }
        for group in groups
    ]
    constructor = plan.implementation.load()
    if plan.implementation.takes_model:
        model = nn.ParameterList([each for group in stand_ins for each in group["params"]])
        optimizer = constructor(model, **plan.keywords)
    else:
        optimizer = constructor(stand_ins, **plan.keywords)
    for group in stand_ins:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    train = getattr(optimizer, "train", None)
    if callable(train):  # schedule-free optimizers refuse to step in eval mode
        train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a package says at its first step, it says in training
        optimizer.step()
    return measured_state_bytes(optimizer)


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
