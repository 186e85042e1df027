"""Optimizer-state bytes: of a plan before building, and of an optimizer that has stepped."""

from __future__ import annotations

import warnings
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
        # compiled kernels would read the memory that a fake tensor has not
        with FakeTensorMode(allow_non_fake_inputs=True), torch.compiler.set_stance("force_eager"):
            return StateMemory(measured_state_bytes(_after_one_step(plan, plan.groups)), "first step on fake tensors")
    except Exception as reason:
        return _one_step_per_shape(plan, reason) if plan.implementation.takes_groups else _one_real_step(plan, reason)


def measured_state_bytes(optimizer: Optimizer) -> int:
    """Count the bytes of every tensor an optimizer holds besides parameters, wherever it keeps them."""
    seen = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return _bytes_of(optimizer.state, seen) + _bytes_of_groups(optimizer, seen)


def _one_real_step(plan: Plan, reason: Exception) -> StateMemory:
    """Count after a real step on every parameter, for classes that make groups of their own."""
    if sum(each.nbytes for group in plan.groups for each in group["params"]) > _LARGEST_REAL_STEP:
        return StateMemory(None, "the model is too large to try a real step on")
    try:
        return StateMemory(measured_state_bytes(_after_one_step(plan, plan.groups)), "a real step")
    except Exception as error:  # see state_memory
        return StateMemory(None, f"no step could be tried: {error or reason!r}")


def _one_step_per_shape(plan: Plan, reason: Exception) -> StateMemory:
    # two parameters of each shape, dtype and role stand for all of them: what the two share, all share
    roles = {each.parameter: each.role for each in plan.routing.routes} if plan.routing else {}
    kinds: list[dict[object, list[nn.Parameter]]] = []
    for group in plan.groups:
        alike: dict[object, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            alike.setdefault((parameter.shape, parameter.dtype, roles.get(parameter)), []).append(parameter)
        kinds.append(alike)
    reduced: list[GroupDict] = [
        {**group, "params": [one for each in alike.values() for one in each[:2]]}
        for group, alike in zip(plan.groups, kinds, strict=True)
    ]
    largest = max((each.nbytes for group in reduced for each in group["params"]), default=0)
    if largest > _LARGEST_REAL_STEP:
        return StateMemory(None, "a parameter is too large to try a real step on")
    try:
        optimizer = _after_one_step(plan, reduced)
        seen = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        total = _bytes_of_groups(optimizer, seen)
        for held, alike in zip(optimizer.param_groups, kinds, strict=True):
            stand_ins = iter(held["params"])
            for same in alike.values():
                bytes_each = 0
                for _ in same[:2]:
                    counted = list(_tensors(optimizer.state.get(next(stand_ins)), seen))
                    bytes_each = sum(tensor.numel() * tensor.element_size() for tensor in counted)
                    total += bytes_each
                total += max(len(same) - 2, 0) * bytes_each
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
        stands_for: dict[Tensor, Tensor] = {}

        def stand_in(parameter: Tensor) -> nn.Parameter:
            made = nn.Parameter(torch.ones(parameter.shape, dtype=parameter.dtype))
            stands_for[made] = parameter
            return made

        stand_ins: list[GroupDict] = [
            {**group, "params": [stand_in(each) for each in group["params"]]} for group in groups
        ]
        takes_groups = plan.implementation.takes_groups
        optimizer = plan.assemble(stand_ins if takes_groups else _module_of(plan, stands_for), stands_for)

        def gradients() -> float:
            if plan.spec.traits.second_order:
                loss = torch.stack([(each * each).sum() for each in stands_for]).sum()
                torch.autograd.backward(loss, create_graph=True)
                return 1.0
            for each in stands_for:
                each.grad = torch.ones_like(each)
            return 1.0

        gradients()
        train = getattr(optimizer, "train", None)
        if callable(train):  # schedule-free optimizers refuse to step in eval mode
            train()
        optimizer.step(gradients) if plan.spec.traits.needs_closure else optimizer.step()
    return optimizer


def _module_of(plan: Plan, stands_for: Mapping[Tensor, Tensor]) -> nn.Module:
    """Return a module whose parameters, the stand-ins, have the names of the model's."""
    names: dict[Tensor, str] = {each.parameter: each.name for each in plan.routing.routes} if plan.routing else {}
    root = nn.Module()
    object.__setattr__(root, "config", getattr(plan.model, "config", None))
    for made, parameter in stands_for.items():
        *path, last = names[parameter].split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, made)  # type: ignore[arg-type]  # made here, as a Parameter
    return root


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
