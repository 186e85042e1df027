"""The two sets of weights of a schedule-free optimizer: those it trains, and their average, which is the model.

``optimizer.eval()`` turns the training weights in the parameters into the average, ``optimizer.train()`` turns it
back, each with rounding (arXiv 2405.15682, equation 3 solved for y). What is saved must be the average, and what is
resumed must be the training weights to the last bit, so a state dict holds these too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from anyoptim.engines.packed_state import ASIDE, remainders
from anyoptim.errors import UnsupportedError

_ATTRIBUTE = "training_weights"


class TrainingWeights:
    """Makes the state dicts of a schedule-free optimizer hold its training weights, and loading one restore them.

    Args:
        optimizer: has ``train()`` and ``eval()``; it holds this object from now on.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer: Any = optimizer
        self._while_averaged: dict[Tensor, Tensor] = {}
        """The training weights while the parameters hold the average."""
        self._behind: dict[Tensor, dict[str, Any]] = {}
        """What lies behind them."""
        optimizer.register_state_dict_post_hook(self._add)
        optimizer.register_load_state_dict_post_hook(_restore)
        optimizer.register_step_pre_hook(_begin_step)
        setattr(optimizer, _ATTRIBUTE, self)
        for turn in ("train", "eval"):
            setattr(optimizer, turn, _leaving_no_empty_state(optimizer, getattr(optimizer, turn)))

    def expect(self) -> None:
        """Put the optimizer into training mode without touching the weights, which a state dict is about to replace.

        torch's distributed checkpoints take a step with zero gradients before they load.
        """
        for group in _groups(self._optimizer):
            group["train_mode"] = True

    @contextmanager
    def average_in_place(self) -> Iterator[None]:
        """Hold the average in the parameters for a while, and exactly the training weights again afterwards.

        Needs the memory of one copy of the parameters. Nothing happens in eval mode, or before the first step.
        """
        optimizer = self._optimizer
        if self._while_averaged or not _training(optimizer):
            yield
            return
        held = [each for each in _parameters(optimizer) if optimizer.state.get(each)]
        kept = {each: each.detach().clone() for each in held}
        self._while_averaged = kept
        self._behind = {each: _copied(remainders(optimizer.state[each])) for each in held}
        optimizer.eval()
        try:
            yield
        finally:
            optimizer.train()
            with torch.no_grad():
                for parameter, weight in kept.items():
                    parameter.copy_(weight)
                    state = optimizer.state[parameter]
                    for key, value in self._behind[parameter].items():
                        if isinstance(value, Tensor):
                            state[key].copy_(value)  # where it lies
                        else:
                            state[key] = value
            self._while_averaged, self._behind = {}, {}

    def _add(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
        kept = self._while_averaged
        if not kept and not _training(optimizer):
            return
        averaged = set(_parameters(optimizer))
        every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(every):
            if parameter in averaged and state_dict["state"].get(index):
                # a dict of its own: the one in the state dict is the optimizer's
                weight = kept.get(parameter, parameter.detach())
                behind = self._behind.get(parameter, {})
                state_dict["state"][index] = {**state_dict["state"][index], **behind, ASIDE: weight}
        for group in state_dict["param_groups"]:
            if "train_mode" in group:
                # as the model is that is saved beside it, so that who knows nothing of ours resumes it, too
                group["train_mode"] = not kept


def training_weights_of(optimizer: Optimizer | None) -> TrainingWeights | None:
    """Return the training weights of a schedule-free optimizer; ``None`` of one that has one set of weights only."""
    return None if optimizer is None else vars(optimizer).get(_ATTRIBUTE)


def average_in_place(optimizer: Optimizer | None) -> AbstractContextManager[None]:
    """Hold the average in the parameters for a while, where there is one; see :class:`TrainingWeights`."""
    found = training_weights_of(optimizer)
    return nullcontext() if found is None else found.average_in_place()


def _leaving_no_empty_state(optimizer: Any, turn: Callable[[], None]) -> Callable[[], None]:
    """Return ``train`` or ``eval`` without the empty state that schedulefree's leave of parameters that have none.

    torch's distributed checkpoints take an optimizer that has some for one whose state is made, and drop what they
    load.
    """

    @functools.wraps(turn)
    def turn_only(*args: bool) -> None:
        turn(*args)  # heavyball's train() takes the mode
        for parameter in [each for each, held in optimizer.state.items() if not held]:
            del optimizer.state[parameter]

    return turn_only


@torch.no_grad()
def _restore(optimizer: Optimizer) -> None:
    training = False
    for parameter in _parameters(optimizer):
        if ASIDE in optimizer.state.get(parameter, {}):
            parameter.copy_(optimizer.state[parameter][ASIDE])
            training = True
    if training:
        for group in _groups(optimizer):
            group["train_mode"] = True


def _begin_step(optimizer: Optimizer, *_: object) -> None:
    """Refuse to train the average, and forget what was loaded: before, a class may look at what it has loaded."""
    averaged = [group for group in _groups(optimizer) if not group["train_mode"]]
    for group in averaged:
        # one that was added since train() has no average yet
        if _training(optimizer) and not any(optimizer.state.get(each) for each in group["params"]):
            group["train_mode"] = True
    if any(not group["train_mode"] for group in averaged):
        raise UnsupportedError(
            f"{type(optimizer).__name__} is in evaluation mode, where the parameters hold the average: call"
            " optimizer.train() before training, and optimizer.eval() before evaluating or saving."
        )
    for parameter in _parameters(optimizer):
        optimizer.state.get(parameter, {}).pop(ASIDE, None)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}


def _training(optimizer: Any) -> bool:
    return any(group["train_mode"] for group in _groups(optimizer))


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    """Return the groups of schedule-free optimizers: in a hybrid, not all are."""
    return [group for group in optimizer.param_groups if "train_mode" in group]


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in _groups(optimizer):
        yield from group["params"]
