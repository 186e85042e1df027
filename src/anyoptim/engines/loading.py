"""State dicts through the hooks that torch lets anybody register, for optimizers that load in a way of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_STATELESS = "stateless"
"""What a state dict holds beside the state of a parameter that has no tensor of one dimension or more."""


def of_every_parameter(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict with a tensor of one dimension for each parameter, as torch's distributed checkpoints ask.

    Args:
        optimizer: whose state dict it is.
        state_dict: some parameters have no state in it, or numbers only.
    """
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    held = [state_dict["state"].get(index, {}) for index in range(len(every))]
    state = {
        index: each if _has_dimensions(each) else {**each, _STATELESS: torch.zeros(1, device=parameter.device)}
        for index, (parameter, each) in enumerate(zip(every, held, strict=True))
    }
    return {**state_dict, "state": {**state_dict["state"], **state}}


def of_those_with_state(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return what :func:`of_every_parameter` was given."""
    state = {
        index: {key: value for key, value in held.items() if key != _STATELESS} if isinstance(held, dict) else held
        for index, held in state_dict["state"].items()
    }
    had_none = {index for index, held in state.items() if held == {} and state_dict["state"][index] != {}}
    return {**state_dict, "state": {index: held for index, held in state.items() if index not in had_none}}


def _has_dimensions(state: Any) -> bool:
    if isinstance(state, Tensor):
        return state.dim() > 0
    return isinstance(state, dict) and any(_has_dimensions(each) for each in state.values())


def only_makes_state(optimizer: Optimizer) -> bool:
    """Whether a step is the one that torch's distributed checkpoints take before they load, to see what state there is.

    There is none yet, and every rate and every gradient is zero.
    """
    if torch.compiler.is_compiling() or optimizer.state:
        return False
    if any(group.get("lr") for group in optimizer.param_groups):
        return False
    every = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
    return not any(bool(each.any()) for each in every if each is not None)


def packed(optimizer: Optimizer) -> dict[str, Any]:
    """Return an optimizer's state dict as torch makes it, without running hooks."""
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    number: dict[Any, int] = {each: index for index, each in enumerate(every)}
    groups = [{**group, "params": [number[each] for each in group["params"]]} for group in optimizer.param_groups]
    return {"state": {number.get(key, key): held for key, held in optimizer.state.items()}, "param_groups": groups}


def between_hooks(optimizer: Optimizer, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a state dict, made between the hooks before it and those that may change it."""
    for before in optimizer._optimizer_state_dict_pre_hooks.values():
        before(optimizer)
    state_dict = make()
    for after in optimizer._optimizer_state_dict_post_hooks.values():
        changed = after(optimizer, state_dict)
        state_dict = state_dict if changed is None else changed
    return state_dict


def before_loading(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Run the hooks for what is about to be loaded, and return what they make of it.

    Args:
        optimizer: whose hooks.
        state_dict: stays as it is; its values are shared.
    """
    state_dict = dict(state_dict)
    for hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        changed = hook(optimizer, state_dict)
        state_dict = state_dict if changed is None else changed
    return state_dict


def after_loading(optimizer: Optimizer) -> None:
    """Run the hooks that follow."""
    for hook in optimizer._optimizer_load_state_dict_post_hooks.values():
        hook(optimizer)
