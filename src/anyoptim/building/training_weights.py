"""The two sets of weights of a schedule-free optimizer: those it trains, and their average, which is the model.

``optimizer.eval()`` turns the training weights in the parameters into the average, ``optimizer.train()`` turns it
back, each with rounding (arXiv 2405.15682, equation 3 solved for y). What is saved must be the average, and what is
resumed must be the training weights to the last bit, so a state dict holds these too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer

_KEY = "training_weight"


_kept: WeakKeyDictionary[Optimizer, dict[Tensor, Tensor]] = WeakKeyDictionary()
"""For each schedule-free optimizer built here, its training weights while the parameters hold the average."""


def keep_training_weights(optimizer: Optimizer) -> None:
    """Make the state dicts of a schedule-free optimizer hold its training weights, and loading one restore them."""
    _kept[optimizer] = {}
    optimizer.register_state_dict_post_hook(_add_training_weights)
    optimizer.register_load_state_dict_post_hook(_restore_training_weights)
    optimizer.register_step_pre_hook(_drop_training_weights)


def has_two_sets(optimizer: Optimizer | None) -> bool:
    """Whether an optimizer's parameters hold the training weights or their average, by turns."""
    return optimizer in _kept


def expect_training_weights(optimizer: Optimizer) -> None:
    """Put an optimizer into its training mode without touching the weights, which a state dict is about to replace.

    torch's distributed checkpoints take a step with zero gradients before they load.
    """
    for group in _groups(optimizer):
        group["train_mode"] = True


@contextmanager
def average_in_place(optimizer: Any) -> Iterator[None]:
    """Hold the average in the parameters for a while, and exactly the training weights again afterwards.

    Needs the memory of one copy of the parameters. Nothing happens in an optimizer that is in its eval mode, has not
    stepped, or has one set of weights only.
    """
    if not has_two_sets(optimizer) or _kept[optimizer] or not _training(optimizer):
        yield
        return
    kept = {each: each.detach().clone() for each in _parameters(optimizer) if optimizer.state.get(each)}
    _kept[optimizer] = kept
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for parameter, weight in kept.items():
                parameter.copy_(weight)
        _kept[optimizer] = {}


def _add_training_weights(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    kept = _kept[optimizer]
    if not kept and not _training(optimizer):
        return
    averaged = set(_parameters(optimizer))
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(every):
        if parameter in averaged and state_dict["state"].get(index):
            # a dict of its own: the one in the state dict is the optimizer's
            weight = kept.get(parameter, parameter.detach())
            state_dict["state"][index] = {**state_dict["state"][index], _KEY: weight}
    for group in state_dict["param_groups"]:
        if "train_mode" in group:
            group["train_mode"] = True


@torch.no_grad()
def _restore_training_weights(optimizer: Optimizer) -> None:
    for parameter in _parameters(optimizer):
        if _KEY in optimizer.state.get(parameter, {}):
            parameter.copy_(optimizer.state[parameter][_KEY])


def _drop_training_weights(optimizer: Optimizer, *_: object) -> None:
    """Forget what was loaded; not before the first step, since a class may look at what it has loaded."""
    for parameter in _parameters(optimizer):
        optimizer.state.get(parameter, {}).pop(_KEY, None)


def _training(optimizer: Any) -> bool:
    return any(group["train_mode"] for group in _groups(optimizer))


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    """Return the groups of schedule-free optimizers: in a hybrid, not all are."""
    return [group for group in optimizer.param_groups if "train_mode" in group]


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in _groups(optimizer):
        yield from group["params"]
