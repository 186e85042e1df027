"""How a facade lets the optimizer inside step: as a whole, or on some of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from anyoptim.engines.distributed import lay_out_gradient

_ORIGINAL = "original"
"""The attribute of a twin that holds the optimizer that it is one of."""


def evaluated(closure: Callable[[], float] | None) -> float | None:
    """Return the loss that a closure computes with its gradients, if there is one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def step_inside(optimizer: Optimizer, closure: Callable[[], float] | None = None) -> Any:
    """Let an optimizer step that another one stands around, and return what its step returns.

    Its own hooks run. Those that torch keeps for every optimizer of the process do not: they have run for the facade.

    Args:
        optimizer: the one inside.
        closure: computes the loss again and returns it.
    """
    step: Any = _step_of(optimizer)
    if torch.compiler.is_compiling():  # torch's decorators around a step break graphs, and hooks run outside
        step = inspect.unwrap(step)
    args: Any = (optimizer,) if closure is None else (optimizer, closure)
    if not getattr(step, "hooked", False):
        return step(*args)
    args, kwargs = before_step(optimizer, args)
    result = step.__wrapped__(*args, **kwargs)
    after_step(optimizer, args, kwargs)
    return result


def before_step(optimizer: Optimizer, args: Any) -> Any:
    """Run an optimizer's own hooks before its step, and return what they make of its arguments."""
    kwargs: Any = {}
    for before in optimizer._optimizer_step_pre_hooks.values():
        changed = before(optimizer, args, kwargs)
        args, kwargs = (args, kwargs) if changed is None else changed
    return args, kwargs


def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Run an optimizer's own hooks after its step."""
    for after in optimizer._optimizer_step_post_hooks.values():
        after(optimizer, args, kwargs)


class HoldsOptimizers(Optimizer):
    """An optimizer around others, whose twin is around twins of these."""

    def twin(self, groups: list[dict[str, Any]], state: Any) -> Optimizer:
        """As :func:`twin_of`."""
        raise NotImplementedError

    def take_back(self, twin: Any) -> None:
        """As :func:`take_back`."""
        raise NotImplementedError


class StepsParts(Optimizer):
    """An optimizer that knows by itself how to step on some of its parameters."""

    def step_part(self, group: dict[str, Any], parameters: Sequence[Tensor]) -> Mapping[str, Any]:
        """As :func:`step_part`."""
        raise NotImplementedError


def step_part(optimizer: Optimizer, group: dict[str, Any], parameters: Sequence[Tensor]) -> Mapping[str, Any]:
    """Let an optimizer step on some parameters of a group, and return what its step makes of the group's values.

    The optimizer's own groups stay as they are, so other threads may step on other parameters meanwhile, and values
    such as step counts can be taken over once a step, whatever the number of parts.

    Args:
        optimizer: updates a parameter from its gradient and state and its group's values alone.
        group: one of its groups.
        parameters: some of the group's that have a gradient.

    Returns:
        The group's values after the step, without ``"params"``; empty where a step changes none.
    """
    if isinstance(optimizer, StepsParts):
        return optimizer.step_part(group, parameters)
    for parameter in parameters:
        lay_out_gradient(parameter)
    twin = stepped_twin(optimizer, [(group, parameters)], optimizer.state)
    take_back(optimizer, twin)
    (values,) = values_of(twin)
    return values


def stepped_twin(
    optimizer: Optimizer,
    parts: Sequence[tuple[Mapping[str, Any], Sequence[Tensor]]],
    state: Any,
    act: Callable[[Any], object] = step_inside,
) -> Optimizer:
    """Return an optimizer that is the same one but for its groups and state, after a step.

    Args:
        optimizer: its groups and state stay as they are.
        parts: groups' values, each with the tensors that are its parameters; values are copied.
        state: the twin's, a mapping that makes what is not in it.
        act: what the twin does, if it is another thing than a step.
    """
    groups = [
        {
            **{key: value.clone() if isinstance(value, Tensor) else value for key, value in group.items()},
            "params": list(parameters),
        }
        for group, parameters in parts
    ]
    twin = twin_of(optimizer, groups, state)
    act(twin)
    return twin


def twin_of(optimizer: Optimizer, groups: list[dict[str, Any]], state: Any) -> Optimizer:
    """Return an optimizer that is the same one but for its groups and state.

    Args:
        optimizer: stays as it is.
        groups: the twin's.
        state: the twin's.
    """
    if isinstance(optimizer, HoldsOptimizers):
        return optimizer.twin(groups, state)
    twin: Optimizer = object.__new__(type(optimizer))
    vars(twin).update({**vars(optimizer), "param_groups": groups, "state": state, _ORIGINAL: original_of(optimizer)})
    return twin


def forget(optimizer: Optimizer, tensors: Collection[Tensor]) -> None:
    """Drop what an optimizer has noted of tensors outside of its state, which would keep them: views of them, say.

    Args:
        optimizer: it and those inside of it.
        tensors: that it steps on no more.
    """
    every = {id(each) for each in tensors}
    for name, held in vars(optimizer).items():
        if isinstance(held, Optimizer) and name != _ORIGINAL:
            forget(held, tensors)
        if not isinstance(held, dict) or name == "state":
            continue
        for key, value in list(held.items()):
            if isinstance(value, Optimizer):
                forget(value, tensors)
            elif id(key) in every or (isinstance(value, tuple) and any(id(each) in every for each in value)):
                del held[key]


def original_of(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer whose twin, or twin's twin, an optimizer is; of one that is none, itself."""
    original: Optimizer = vars(optimizer).get(_ORIGINAL, optimizer)
    return original


def values_of(twin: Optimizer) -> list[dict[str, Any]]:
    """Return the values of an optimizer's groups, without their parameters."""
    return [{key: value for key, value in group.items() if key != "params"} for group in twin.param_groups]


def _step_of(optimizer: Optimizer) -> Any:
    """Return what ``step`` is, as a function of the optimizer: some get one of their own when they are mended."""
    own = vars(optimizer).get("step")
    return own.__func__ if isinstance(own, MethodType) else type(optimizer).step


def take_back(optimizer: Optimizer, twin: Optimizer) -> None:
    """Keep what a twin's step has put into attributes, such as a count of its own."""
    if isinstance(optimizer, HoldsOptimizers):
        optimizer.take_back(twin)
    else:
        take_back_attributes(optimizer, twin, "param_groups", "state", _ORIGINAL)


def take_back_attributes(optimizer: Optimizer, twin: Optimizer, *but: str) -> None:
    """Keep a twin's attributes, but for some."""
    before = vars(optimizer)
    for name, value in vars(twin).items():
        if name not in but and before.get(name) is not value:
            before[name] = value
