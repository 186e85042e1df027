"""Optimizer-state bytes: of a plan before building, and of an optimizer that has stepped.

No formula by name: the constructor and ``step()`` run on stand-ins, and what they leave in the state is counted. That
two of a kind stand for all is checked as it runs: where state lies outside of parameters, two of a kind differ, or
one holds everything (L-BFGS), all parameters take part. Over ranks the stand-ins are DTensors in torch's fake process
group, so what an engine gathers or keeps whole is counted as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import _disable_current_modes, is_traceable_wrapper_subclass

from anyoptim.building.assemble import assemble
from anyoptim.building.blueprint import Blueprint
from anyoptim.memory.generators import generators_kept
from anyoptim.memory.trying import ATTEMPTS
from anyoptim.names.spec import Traits
from anyoptim.routing.groups import GroupDict

Shard = Callable[[Tensor], Tensor]
"""Takes a parameter's stand-in and returns what one process holds of it."""

_FEW = 2
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
    """Predict the state bytes of a plan by the optimizer's own first step, on tensors without storage.

    A step that asks for the value of a tensor, or runs kernels of its own, cannot run that way; there, a real step is
    tried, or, where its tensors would be large, every value that is asked for is taken as 1: see ``ATTEMPTS``. Two
    parameters of each shape, dtype, role and group stand for all, unless an optimizer keeps its state otherwise.

    Args:
        plan: a plan with param groups; its model may be on the meta device.
        shard: what one of several processes holds of a parameter; all of it if ``None``.
    """
    if not plan.groups:
        return StateMemory(None, "no model")
    size = sum(each.nbytes for group in _stand_ins(plan, _FEW) for each in group["params"])
    attempt = next(each for each in ATTEMPTS if size <= each.up_to)
    reason = attempt.otherwise
    for way in attempt.ways:
        try:
            with way.context():
                return StateMemory(_bytes_after_one_step(plan, shard), way.method)
        except Exception as error:  # a stranger's step may raise anything under fake tensors
            reason = reason or f"no step could be tried: {str(error).partition(chr(10))[0] or repr(error)}"
    return StateMemory(None, reason)


def measured_state_bytes(optimizer: Optimizer) -> int:
    """Count the bytes of every tensor that this process holds for an optimizer besides parameters, wherever it is."""
    held = [optimizer.state, _outside_parameters(optimizer)]
    return _bytes_of(held, _parameters_of(optimizer))


def local_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor in this process: of its own piece, where it is sharded."""
    held: Any = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    if is_traceable_wrapper_subclass(held):  # torchao's quantized state has a nominal dtype that it is not stored in
        return sum(local_bytes(getattr(held, name)) for name in held.__tensor_flatten__()[0])
    return int(held.numel() * held.element_size())


def _kinds(plan: Blueprint) -> list[list[list[nn.Parameter]]]:
    """Return the parameters of each group, those of one shape, dtype and role together, and those that are zero."""
    roles = {each.parameter: each.role for each in plan.routing.routes} if plan.routing else {}
    found = []
    for group in plan.groups:
        kinds: dict[object, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            kind = (parameter.shape, parameter.dtype, roles.get(parameter), _is_zero(parameter))
            kinds.setdefault(kind, []).append(parameter)
        found.append(list(kinds.values()))
    return found


def _is_zero(parameter: Tensor) -> bool:
    """Whether weights that are there are all zero, as new biases and LoRA's B: some keep less of these."""
    if parameter.is_meta or not parameter.numel():
        return False
    with _disable_current_modes():  # the weights are no fake tensors
        flat = parameter.detach().reshape(-1)
        return not bool(flat[-1:].any()) and not bool(flat.any())  # a look at one of them is enough for most


def _stand_ins(plan: Blueprint, most: int | None) -> list[GroupDict]:
    """Return the groups of a plan with at most so many parameters of a kind: what two share, all share."""
    return [
        {**group, "params": [one for same in kinds for one in same[:most]]}
        for group, kinds in zip(plan.groups, _kinds(plan), strict=True)
    ]


def _bytes_after_one_step(plan: Blueprint, shard: Shard | None) -> int:
    """Count the state of all parameters, from that of a few of each kind where it is kept by parameter."""
    if plan.implementation.takes_groups:
        found = _from_few(plan, _after_one_step(plan, _FEW, shard))
        if found is not None:
            return found
    return measured_state_bytes(_after_one_step(plan, None, shard))


def _from_few(plan: Blueprint, optimizer: Optimizer) -> int | None:
    """Count the state of all parameters from that of a few of each kind; ``None`` if it is not kept by parameter."""
    seen = _parameters_of(optimizer)
    outside = _outside_parameters(optimizer)
    total = _bytes_of(outside, seen)
    if total > _COUNTERS * len(seen) or len(optimizer.param_groups) != len(plan.groups):
        return None
    holders = 0
    for group, kinds in zip(optimizer.param_groups, _kinds(plan), strict=True):
        held = iter(group["params"])
        for same in kinds:
            sizes = [_bytes_of(optimizer.state.get(next(held)), seen) for _ in same[:_FEW]]
            if max(sizes) - min(sizes) > _COUNTERS:
                return None
            holders += sum(map(bool, sizes))
            total += sum(sizes) + (len(same) - len(sizes)) * sizes[-1]
    # one that flattens all parameters keeps everything under the first
    return None if holders == 1 and len(seen) > 1 else total


def _after_one_step(plan: Blueprint, most: int | None, shard: Shard | None) -> Optimizer:
    """Build a plan's optimizer on stand-ins for at most so many parameters of a kind, and let it step once.

    On the CPU whatever the default device, and without moving a generator of the process. What a
    package warns of at its first step, it says in training.
    """
    with torch.device("cpu"), generators_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stands_for: dict[Tensor, Tensor] = {}

        def stand_in(parameter: Tensor) -> nn.Parameter:
            make = torch.zeros if _is_zero(parameter) else torch.ones
            whole = make(parameter.shape, dtype=parameter.dtype)
            made = nn.Parameter(whole if shard is None else shard(whole))
            stands_for[made] = parameter
            return made

        stand_ins: list[GroupDict] = [
            {**group, "params": [stand_in(each) for each in group["params"]]} for group in _stand_ins(plan, most)
        ]
        takes_groups = plan.implementation.takes_groups
        optimizer = assemble(plan, stand_ins if takes_groups else _module_of(plan, stands_for), stands_for)
        take_one_step(optimizer, stands_for, plan.spec.traits)
    return optimizer


def take_one_step(optimizer: Optimizer, parameters: Iterable[Tensor], traits: Traits) -> None:
    """Let an optimizer step once on gradients of ones, with what its traits say that it needs."""

    def gradients() -> float:
        if traits.second_order:
            loss = torch.stack([(each * each).sum() for each in parameters]).sum()
            torch.autograd.backward(loss, create_graph=True)
            return 1.0
        for each in parameters:
            each.grad = torch.ones_like(each)
        return 1.0

    gradients()
    train = getattr(optimizer, "train", None)
    if callable(train):  # schedule-free optimizers refuse to step in eval mode
        train()
    optimizer.step(gradients) if traits.needs_closure else optimizer.step()


def _module_of(plan: Blueprint, stands_for: Mapping[Tensor, Tensor]) -> nn.Module:
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
