"""The base of facades whose optimizer steps on plain tensors in the place of parameters that processes share."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from anyoptim.engines.distributed import local
from anyoptim.engines.facade import Facade
from anyoptim.engines.stepping import StepsParts, evaluated, forget, step_inside, stepped_twin, take_back, values_of

Chosen = Sequence[tuple[int, Tensor]]
"""Parameters, each with the index of its group."""
_MODES = ("train", "eval")
"""Methods of optimizers that turn their weights."""


class OnShards(Facade, StepsParts):
    """A facade that lets the optimizer inside step on stand-ins: plain tensors that hold a parameter, or a part of it.

    Args:
        optimizer: updates a parameter from its gradient and state and its group's values alone.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer)
        self._keys_by_size: dict[int, list[Any]] = {}

    def stand_ins(self) -> StandIns:
        """Return a step that has not begun yet."""
        return StandIns(self.optimizer, self._shared_keys())

    def _shared_keys(self) -> list[Any]:
        """Return the keys of the state that are no parameters; looked for once for each size of the state.

        A backward pass that updates asks for each parameter, and there may be many.
        """
        state, known = self.optimizer.state, self._keys_by_size
        if len(state) not in known:
            known.clear()
            known[len(state)] = [key for key in state if not isinstance(key, Tensor)]
        return known[len(state)]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch has overloads
        """Update every parameter that has a gradient on any process.

        Args:
            closure: computes the loss again and returns it.
        """
        loss = evaluated(closure)
        every = [(index, each) for index, group in enumerate(self.param_groups) for each in group["params"]]
        for index, values in self.update(every).items():
            self.param_groups[index].update(values)
        return loss

    def step_part(self, group: dict[str, Any], parameters: Sequence[Tensor]) -> Mapping[str, Any]:
        """Step on some parameters of a group; see :func:`anyoptim.engines.stepping.step_part`."""
        return self.step_parts([(group, each) for each in parameters]).get(self._index(group), {})

    def step_parts(self, chosen: Iterable[tuple[dict[str, Any], Tensor]]) -> dict[int, Mapping[str, Any]]:
        """Step on some parameters, each with its group; as :meth:`update`."""
        return self.update([(self._index(group), each) for group, each in chosen])

    def _index(self, group: dict[str, Any]) -> int:
        return next(index for index, each in enumerate(self.param_groups) if each is group)

    def update(self, chosen: Chosen) -> dict[int, Mapping[str, Any]]:
        """Update parameters, and return what becomes of the values of their groups, by the group's index."""
        raise NotImplementedError


class TurnsParts(OnShards):
    """One whose optimizer has two sets of weights: ``train()`` and ``eval()`` run on stand-ins, too."""

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return partial(self._turn, name) if name in _MODES else found

    @torch.no_grad()
    def _turn(self, mode: str, *args: Any) -> None:
        every = [(index, each) for index, group in enumerate(self.param_groups) for each in group["params"]]
        for index, values in self.turn(every, lambda twin: getattr(twin, mode)(*args)).items():
            self.param_groups[index].update(values)

    def turn(self, chosen: Chosen, act: Callable[[Any], object]) -> dict[int, Mapping[str, Any]]:
        """Let twins of the optimizer turn parameters, from those that it trains to those that it gives away, or back.

        Args:
            chosen: the parameters.
            act: what a twin does.

        Returns:
            what becomes of the values of their groups, by the group's index.
        """
        raise NotImplementedError


class StandIns:
    """Steps of one optimizer on stand-ins, in as many parts as one likes: group values advance once.

    Args:
        optimizer: the one inside.
        shared: the keys of its state that are no parameters; looked for if ``None``.
    """

    def __init__(self, optimizer: Optimizer, shared: Iterable[Any] | None = None) -> None:
        self.optimizer = optimizer
        if shared is None:
            shared = [key for key in optimizer.state if not isinstance(key, Tensor)]
        self._shared = {key: optimizer.state[key] for key in shared}
        self._twin: Optimizer | None = None
        self.after: dict[int, Mapping[str, Any]] = {}

    def step(
        self,
        stand_ins: Iterable[tuple[int, Tensor, dict[str, Any]]],
        act: Callable[[Any], object] = step_inside,
    ) -> dict[Tensor, dict[str, Any]]:
        """Let the optimizer step on tensors that have gradients.

        Args:
            stand_ins: the index of the group, the tensor, and its state.
            act: what it does, if it is another thing than a step.

        Returns:
            The state of each after the step.
        """
        state: defaultdict[Any, Any] = defaultdict(dict, copy.deepcopy(self._shared))
        parts: dict[int, list[Tensor]] = {}
        for index, tensor, held in stand_ins:
            parts.setdefault(index, []).append(tensor)
            if held:
                state[tensor] = held
        if not parts:
            return {}
        groups = self.optimizer.param_groups
        twin = stepped_twin(self.optimizer, [(groups[index], tensors) for index, tensors in parts.items()], state, act)
        self.after.update(zip(parts, values_of(twin), strict=True))
        self._twin = twin
        # what the twin holds would lie there until the next part has stepped
        for group in twin.param_groups:
            group["params"] = []
        forget(twin, [tensor for tensors in parts.values() for tensor in tensors])
        return {tensor: state.pop(tensor) for tensors in parts.values() for tensor in tensors if tensor in state}

    def advance(self, index: int, parameter: Tensor, *, with_gradient: bool) -> None:
        """Let a group's values advance where this process steps none of its parameters: by a step on zeros.

        Args:
            index: of the group.
            parameter: one of its, whose number of dimensions counts.
            with_gradient: whether any of them has one on any process.
        """
        if index in self.after:
            return
        example = local(parameter.detach())
        try:
            self.step([(index, one_element(parameter, example, with_gradient=with_gradient), {})])
        except Exception:  # some cut a matrix into heads, say, which one element has not
            zeros = torch.zeros(parameter.shape, dtype=example.dtype, device=example.device)
            gradient = torch.zeros_like(zeros) if with_gradient else None
            self.step([(index, stand_in(zeros, gradient, parameter), {})])

    def finish(self) -> None:
        """Keep what the optimizer counts outside of groups and parameters, once however many parts there were."""
        if self._twin is not None:
            take_back(self.optimizer, self._twin)
            shared = {key: held for key, held in self._twin.state.items() if not isinstance(key, Tensor)}
            self.optimizer.state.update(shared)

    def changed_values(self) -> bool:
        """Whether a step has changed any group's values, such as a step count."""
        groups = self.optimizer.param_groups
        return any(
            key not in groups[index] or not _same(value, groups[index][key])
            for index, values in self.after.items()
            for key, value in values.items()
        )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one is other or bool(one == other)


def stand_in(values: Tensor, gradient: Tensor | None, parameter: Tensor) -> Tensor:
    """Return a parameter that shares the memory of plain tensors.

    Args:
        values: the weights.
        gradient: of the weights' shape.
        parameter: what it stands for.
    """
    made: Any = nn.Parameter(values)
    made.grad = gradient
    made.stands_for = parameter
    return made  # type: ignore[no-any-return]  # a parameter


def stood_for(tensor: Tensor) -> Tensor:
    """Return the parameter that a stand-in, or a stand-in's, stands for; any other tensor itself."""
    while hasattr(tensor, "stands_for"):
        tensor = tensor.stands_for
    return tensor


def one_element(parameter: Tensor, example: Tensor, *, with_gradient: bool = True) -> Tensor:
    """Return a stand-in of one element, of a tensor's number of dimensions, dtype and device."""
    zero = torch.zeros([1] * example.dim(), dtype=example.dtype, device=example.device)
    return stand_in(zero, torch.zeros_like(zero) if with_gradient else None, parameter)
