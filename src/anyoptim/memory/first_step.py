"""An optimizer's first step, tried without training: on stand-ins, a few parameters of each kind for all.

No formula by name: the constructor and ``step()`` run, and what they leave in the state can be looked at.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import _disable_current_modes

from anyoptim.building.assemble import assemble
from anyoptim.building.blueprint import Blueprint
from anyoptim.memory.generators import generators_kept
from anyoptim.memory.trying import ATTEMPTS
from anyoptim.names.spec import Traits
from anyoptim.routing.groups import GroupDict

_Found = TypeVar("_Found")

Shard = Callable[[Tensor], Tensor]
"""Takes a parameter's stand-in and returns what one process holds of it."""

FEW = 2
"""So many parameters of a kind stand for all: that two of them agree can be checked."""


def try_a_step(plan: Blueprint, find: Callable[[], _Found]) -> tuple[_Found | None, str]:
    """Return what ``find`` finds out by a first step, and how; ``None`` and the reason where no step could be tried.

    A step that asks for the value of a tensor, or runs kernels of its own, cannot run on tensors without storage;
    there, a real step is tried, or, where its tensors would be large, every value that is asked for is taken as 1: see
    ``ATTEMPTS``.

    Args:
        plan: a plan with param groups; its model may be on the meta device.
        find: calls :func:`after_one_step`.
    """
    size = sum(each.nbytes for group in _few_of_each_kind(plan, FEW) for each in group["params"])
    attempt = next(each for each in ATTEMPTS if size <= each.up_to)
    reason = attempt.otherwise
    for way in attempt.ways:
        try:
            with way.context():
                return find(), way.method
        except Exception as error:  # a stranger's step may raise anything under fake tensors
            reason = reason or f"no step could be tried: {str(error).partition(chr(10))[0] or repr(error)}"
    return None, reason


def kinds(plan: Blueprint) -> list[list[list[nn.Parameter]]]:
    """Return the parameters of each group, those of one shape, dtype and role together, and those that are zero."""
    roles = {each.parameter: each.role for each in plan.routing.routes} if plan.routing else {}
    found = []
    for group in plan.groups:
        same: dict[object, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            kind = (parameter.shape, parameter.dtype, roles.get(parameter), _is_zero(parameter))
            same.setdefault(kind, []).append(parameter)
        found.append(list(same.values()))
    return found


def after_one_step(plan: Blueprint, most: int | None, shard: Shard | None = None) -> Optimizer:
    """Build a plan's optimizer on stand-ins for at most so many parameters of a kind, and let it step once.

    On the CPU whatever the default device, and without moving a generator of the process. What a
    package warns of at its first step, it says in training.

    Args:
        plan: what is built.
        most: parameters of a kind, the first ones; all if ``None``.
        shard: what one of several processes holds of a parameter; all of it if ``None``.
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
            {**group, "params": [stand_in(each) for each in group["params"]]} for group in _few_of_each_kind(plan, most)
        ]
        takes_groups = plan.implementation.takes_groups
        optimizer = assemble(plan, stand_ins if takes_groups else _module_of(plan, stands_for), stands_for)
        _take_one_step(optimizer, stands_for, plan.spec.traits)
    return optimizer


def _few_of_each_kind(plan: Blueprint, most: int | None) -> list[GroupDict]:
    """Return the groups of a plan with at most so many parameters of a kind: what two share, all share."""
    return [
        {**group, "params": [one for same in of_group for one in same[:most]]}
        for group, of_group in zip(plan.groups, kinds(plan), strict=True)
    ]


def _is_zero(parameter: Tensor) -> bool:
    """Whether weights that are there are all zero, as new biases and LoRA's B: some keep less of these."""
    if parameter.is_meta or not parameter.numel():
        return False
    with _disable_current_modes():  # the weights are no fake tensors
        flat = parameter.detach().reshape(-1)
        return not bool(flat[-1:].any()) and not bool(flat.any())  # a look at one of them is enough for most


def _take_one_step(optimizer: Optimizer, parameters: Iterable[Tensor], traits: Traits) -> None:
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
