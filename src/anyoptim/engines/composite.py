"""Several optimizers as one, each with param groups of its own: hybrids such as Muon with AdamW for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from anyoptim.engines.copies import copy_whole, kept_attributes
from anyoptim.engines.facade import Facade, not_around_parameters
from anyoptim.engines.loading import (
    after_loading,
    before_loading,
    between_hooks,
    of_every_parameter,
    of_those_with_state,
    packed,
)
from anyoptim.engines.stepping import (
    HoldsOptimizers,
    evaluated,
    step_inside,
    take_back,
    take_back_attributes,
    twin_of,
)
from anyoptim.names.composing import MEMBER

_Kind = TypeVar("_Kind", bound=Optimizer)


class CompositeOptimizer(HoldsOptimizers):
    """Runs several optimizers as one ``torch.optim.Optimizer``.

    ``param_groups`` holds the very dicts that the inner optimizers use, those of the first one first, and ``state`` is
    one mapping for all, so schedulers, FSDP2's exchange of parameters and state dicts work as with any optimizer.
    ``train()`` and ``eval()`` are those of the inner optimizers that have them.

    Args:
        optimizers: by the name that a group's key ``"optimizer"`` has for each; a group that is added later and names
            none goes to the first. The last one is the main one: ``defaults``, by which schedulers scale rates, are
            its own.

    Raises:
        UnsupportedError: parameters are given instead.
        KeyError: from ``add_param_group``, no optimizer has the name that the group gives.
    """

    optimizers: dict[str, Optimizer]

    def __init__(self, optimizers: Mapping[str, Optimizer]) -> None:
        if not isinstance(optimizers, Mapping):
            raise not_around_parameters(type(self))
        *_, main = optimizers.values()
        # as unpickling does: hooks and profiling of a torch optimizer, without groups of our own
        self.__setstate__({"optimizers": dict(optimizers), "defaults": main.defaults, "param_groups": [], "state": {}})
        for name, each in optimizers.items():
            copy_whole(each)
            for group in each.param_groups:
                group[MEMBER] = name
        self._share()
        self._complete()

    def _share(self) -> None:
        """Take over the inner optimizers' group dicts and state, which loading a state dict replaces."""
        self.param_groups = [group for each in self.optimizers.values() for group in each.param_groups]
        state: defaultdict[Tensor, Any] = defaultdict(dict)
        for each in self.optimizers.values():
            state.update(each.state)
        self.state = state
        for each in self.optimizers.values():
            each.state = state

    def _complete(self) -> None:
        """Give every group ``betas`` if the main optimizer has them: torch's cyclic schedulers look for them there."""
        if "betas" in self.defaults:
            for group in self.param_groups:
                group.setdefault("betas", self.defaults["betas"])

    def owner(self, group: Mapping[str, Any]) -> Optimizer:
        """Return the inner optimizer of one of the groups."""
        return self.optimizers[group[MEMBER]]

    def twin(self, groups: list[dict[str, Any]], state: Any) -> Optimizer:
        """Return the same hybrid of twins; see :func:`anyoptim.engines.stepping.twin_of`."""
        own = {name: [each for each in groups if each[MEMBER] == name] for name in self.optimizers}
        optimizers = {name: twin_of(each, own[name], state) for name, each in self.optimizers.items() if own[name]}
        twin: Optimizer = object.__new__(type(self))
        vars(twin).update({**vars(self), "optimizers": optimizers, "param_groups": groups, "state": state})
        return twin

    def take_back(self, twin: Any) -> None:
        """Keep what a twin has put into attributes; see :func:`anyoptim.engines.stepping.take_back`."""
        take_back_attributes(self, twin, "optimizers", "param_groups", "state")
        for name, each in twin.optimizers.items():
            take_back(self.optimizers[name], each)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the optimizer that its key ``"optimizer"`` names, or to the first one."""
        name = param_group.setdefault(MEMBER, next(iter(self.optimizers)))
        params = param_group["params"]
        params = param_group["params"] = [params] if isinstance(params, Tensor) else list(params)
        taken = {parameter for group in self.param_groups for parameter in group["params"]}
        if not taken.isdisjoint(params):
            raise ValueError("some parameters appear in more than one parameter group")
        self.optimizers[name].add_param_group(param_group)
        # at the end, like any optimizer: schedulers and state dicts count groups by their place
        self.param_groups.append(self.optimizers[name].param_groups[-1])
        self._complete()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch has overloads
        """Let every inner optimizer step.

        Args:
            closure: computes the loss again and returns it.
        """
        loss = evaluated(closure)
        self._step_each()
        return loss

    # each gets a graph of its own: one for all, which share a state, would be made again at every step
    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator,no-untyped-call]  # torch's
    def _step_each(self) -> None:
        for each in self.optimizers.values():
            step_inside(each)

    def __getstate__(self) -> dict[str, Any]:
        return kept_attributes(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all inner optimizers; those that keep none have an entry, too, once one has."""
        state_dict = between_hooks(self, self._to_save)
        return of_every_parameter(self, state_dict) if state_dict["state"] else state_dict

    def _to_save(self) -> dict[str, Any]:
        """Return the state dict, with what facades around the inner optimizers make of their parts."""
        state_dict = packed(self)
        for name, each in self.optimizers.items():
            if isinstance(each, Facade):
                numbers = [
                    number
                    for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True)
                    if group[MEMBER] == name
                    for number in saved["params"]
                ]
                state = state_dict["state"]
                part = {index: state.pop(number) for index, number in enumerate(numbers) if number in state}
                saved = each.to_save({"state": part, "param_groups": each.param_groups})["state"]
                state.update((numbers[key] if isinstance(key, int) else key, held) for key, held in saved.items())
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of the same hybrid: each inner optimizer loads its part in its own way.

        Raises:
            ValueError: its groups are others.
        """
        state_dict = of_those_with_state(before_loading(self, state_dict))
        saved, live = state_dict["param_groups"], list(self.param_groups)
        if [len(group["params"]) for group in saved] != [len(group["params"]) for group in live]:
            raise ValueError("loaded state dict has other param groups than the optimizer")
        for name, each in self.optimizers.items():
            mine = [old for old, new in zip(saved, live, strict=True) if new[MEMBER] == name]
            indices = {index for group in mine for index in group["params"]}
            state = {index: held for index, held in state_dict["state"].items() if index in indices}
            each.load_state_dict({"state": state, "param_groups": mine})
        self._share()
        loaded = {name: iter(each.param_groups) for name, each in self.optimizers.items()}
        self.param_groups = [next(loaded[group[MEMBER]]) for group in live]
        after_loading(self)

    def train(self) -> None:
        """Put the inner optimizers that have modes into training mode."""
        self._each_that_has("train")

    def eval(self) -> None:
        """Put the inner optimizers that have modes into evaluation mode."""
        self._each_that_has("eval")

    def report_losses(self, **losses: float | None) -> None:
        """Pass losses to the inner optimizers that want them."""
        self._each_that_has("report_losses", **losses)

    def _each_that_has(self, method: str, **arguments: float | None) -> None:
        for each in self.optimizers.values():
            if hasattr(each, method):
                getattr(each, method)(**arguments)


def inside(optimizer: Optimizer | None, kind: type[_Kind]) -> Iterator[_Kind]:
    """Yield what of a kind is inside of an optimizer, in facades and hybrids, or is it."""
    if isinstance(optimizer, kind):
        yield optimizer
    elif isinstance(optimizer, Facade):
        yield from inside(optimizer.optimizer, kind)
    elif isinstance(optimizer, CompositeOptimizer):
        for each in optimizer.optimizers.values():
            yield from inside(each, kind)
