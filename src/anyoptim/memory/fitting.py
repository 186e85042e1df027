"""Loaded state is refused where a step could not use it: a fused kernel, which does not look at shapes, crashes."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from anyoptim.building.blueprint import Blueprint
from anyoptim.building.records import record_of, refuse_state_of_another
from anyoptim.building.state_dicts import is_empty
from anyoptim.building.storing import held_as_here
from anyoptim.engines.loading import of_those_with_state
from anyoptim.errors import CheckpointError
from anyoptim.memory.first_step import FEW, after_one_step, kinds, try_a_step
from anyoptim.memory.state import bytes_from_few
from anyoptim.routing.groups import GroupDict

_LISTS = (list, tuple, deque)
_Differs = Callable[[object, object, str], str]
"""Takes what is held, what is expected and its name, and says what differs, or \"\"."""


class FitsOnly:
    """Refuses loaded state of another optimizer, and of other keys, shapes or dtypes than the first step would make.

    Keys that only later steps make may be there, and a parameter may have no state at all. On a device mesh, torch's
    distributed checkpoints make the state before they load, and that one counts. ``torch.optim.Optimizer`` casts loaded
    state to the parameter's dtype: what the first step makes in float32 beside bf16 parameters is put back as saved.

    Args:
        plan: by which the optimizer was built.
        optimizer: it has hooks for what it loads from now on.
    """

    def __init__(self, plan: Blueprint, optimizer: Optimizer) -> None:
        self._plan = plan
        self._expected: dict[object, object] = {}
        self._saved: dict[object, object] = {}
        self._converted = False
        """Whether what is loaded was held in another way between steps."""
        # before any hook changes what stands there, and after any class has cast it
        optimizer.register_load_state_dict_pre_hook(self._refuse_shapes, prepend=True)
        optimizer.register_load_state_dict_post_hook(self._refuse_dtypes)

    def _refuse_shapes(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any] | None:
        refuse_state_of_another(optimizer, state_dict)
        as_here = held_as_here(optimizer, state_dict, self._plan.spec.name)
        self._converted = as_here is not None
        state_dict = as_here or state_dict
        saved = state_dict["param_groups"]
        places: dict[object, int] = {
            key: index for index, key in enumerate(key for group in saved for key in group["params"])
        }
        self._saved = {places.get(key, key): held for key, held in state_dict.get("state", {}).items()}
        self._expected = self._first_state(optimizer, saved) if self._saved else {}
        misfit = self._misfit(optimizer, self._expected)
        converted = (other for _, each in self._plan.members for other in each.loads_state_of)
        if misfit and all(self._misfit(optimizer, self._first_state(optimizer, saved, each)) for each in converted):
            self._refuse(optimizer, *misfit)
        return as_here

    def _misfit(self, optimizer: Optimizer, expected: Mapping[object, object]) -> tuple[object, str] | None:
        """Return the place of the first saved state that does not fit, and what differs."""
        unstepped: dict[object, object] = {
            index: optimizer.state.get(each) for index, each in enumerate(_parameters(optimizer))
        }
        for place, held in self._saved.items():
            flaw = _difference(held, expected.get(place), _other_shape)
            if flaw and not _is_like(held, unstepped.get(place)):  # some constructors make state
                return place, flaw
        return None

    def _refuse_dtypes(self, optimizer: Optimizer) -> None:
        places: dict[object, int] = {each: index for index, each in enumerate(_parameters(optimizer))}
        for key in list(optimizer.state):
            place = places.get(key, key)
            _put_back(optimizer.state[key], self._saved.get(place), self._expected.get(place))
            if self._converted:
                optimizer.state[key] = _cast(optimizer.state[key], self._expected.get(place))
            flaw = _difference(optimizer.state[key], self._expected.get(place), _other_dtype)
            if flaw:
                self._refuse(optimizer, place, flaw)
        self._expected, self._saved = {}, {}

    def _refuse(self, optimizer: Optimizer, place: object, flaw: str) -> NoReturn:
        raise CheckpointError(
            f"This state of {self._plan.spec.name} does not fit {self._name(optimizer, place)}: {flaw}."
            " Resume with the model and the settings that it was written with, or start the optimizer afresh."
        )

    def _name(self, optimizer: Optimizer, place: object) -> str:
        parameter = dict(enumerate(_parameters(optimizer))).get(place)  # type: ignore[call-overload]  # or a word
        routes = self._plan.routing.routes if self._plan.routing else ()
        return next((each.name for each in routes if each.parameter is parameter), f"its {place}")

    def _first_state(
        self, optimizer: Optimizer, saved: Sequence[Mapping[str, object]], other: Mapping[str, object] | None = None
    ) -> dict[object, object]:
        """Return what the first step would make, by a parameter's place or by the word that stands for none.

        With ``other`` values, of the groups' keys among them.
        """
        if any(isinstance(each, DTensor) for each in _parameters(optimizer)):
            return dict(of_those_with_state(optimizer.state_dict())["state"])
        plan = dataclasses.replace(self._plan, groups=tuple(self._groups(optimizer, saved, other or {})))
        found, _ = try_a_step(plan, lambda: _state_of_each(plan))
        resized = {key for _, each in plan.members for key in each.resized_state}
        return {place: _of_any_size(held, resized) for place, held in (found or {}).items()}

    def _groups(
        self, optimizer: Optimizer, saved: Sequence[Mapping[str, object]], other: Mapping[str, object]
    ) -> Iterator[GroupDict]:
        """Yield the groups that the optimizer will have: a state dict brings its hyperparameters with it."""
        record = record_of(optimizer)
        keys = {each.key for each in record.places.values()} if record else set()
        for group, old in zip(optimizer.param_groups, saved, strict=True):
            brought = {key: old[key] for key in keys if key in old} | dict(other)
            made: Any = {**group, **{key: value for key, value in brought.items() if key in group}}
            yield made


def _state_of_each(plan: Blueprint) -> dict[object, object]:
    """Return what a state dict holds after one step, by the place of each parameter in the plan."""
    most = FEW if plan.implementation.takes_groups else None
    optimizer = after_one_step(plan, most)
    if most is not None and bytes_from_few(plan, optimizer) is None:
        most = None
        optimizer = after_one_step(plan, most)
    state = optimizer.state_dict().get("state", {})
    place = {each: index for index, each in enumerate(each for group in plan.groups for each in group["params"])}
    found: dict[object, object] = {key: held for key, held in state.items() if isinstance(key, str)}
    stepped = 0
    for same in (same for group in kinds(plan) for same in group):
        few = [*range(stepped, stepped + len(same[:most]))]
        stepped += len(few)
        found.update((place[each], state.get(few[min(at, len(few) - 1)])) for at, each in enumerate(same))
    return found


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _of_any_size(state: object, keys: Collection[str]) -> object:
    """Return state with empty tensors, which any shape fits, for some of its keys."""
    if not isinstance(state, Mapping):
        return state
    return {key: held.new_empty(0) if key in keys and isinstance(held, Tensor) else held for key, held in state.items()}


def _difference(held: object, expected: object, differs: _Differs) -> str:
    """Return how the state of a parameter differs from the expected one, or ""; there may be none."""
    return differs(held, expected, "state") if expected is not None and held != {} else ""


def _is_like(held: object, state: object) -> bool:
    """Whether state has the very keys and shapes of some that is there."""
    same_keys = isinstance(held, Mapping) and isinstance(state, Mapping) and held.keys() == state.keys()
    return same_keys and not _other_shape(held, state, "state")


def _other_shape(held: object, expected: object, name: str) -> str:
    """Return which key is missing or of another shape, or ""."""
    if isinstance(expected, Mapping):
        if not isinstance(held, Mapping):
            return f"its {name} is no mapping"
        missing = [key for key, each in expected.items() if key not in held and not is_empty(each)]
        if missing:
            return f"it has no {missing[0]}"
        return next(
            filter(None, (_other_shape(held[key], each, str(key)) for key, each in expected.items() if key in held)), ""
        )
    if isinstance(expected, _LISTS) and isinstance(held, _LISTS):  # which may grow
        return next(filter(None, (_other_shape(*pair, name) for pair in zip(held, expected, strict=False))), "")
    if not isinstance(expected, Tensor):
        return ""  # plain values, which are numbers of every kind in some packages
    if not isinstance(held, Tensor):
        return f"its {name} is no tensor" if expected.dim() else ""
    same = held.shape == expected.shape or _is_count(expected, held) or not expected.numel()  # to be made later
    return "" if same else f"its {name} is of shape {tuple(held.shape)}, not {tuple(expected.shape)}"


def _other_dtype(held: object, expected: object, name: str) -> str:
    """Return which tensor is of another dtype, or ""."""
    if isinstance(expected, Mapping) and isinstance(held, Mapping):
        pairs = ((held[key], each, str(key)) for key, each in expected.items() if key in held)
        return next(filter(None, (_other_dtype(*pair) for pair in pairs)), "")
    if isinstance(expected, _LISTS) and isinstance(held, _LISTS):
        return next(filter(None, (_other_dtype(*pair, name) for pair in zip(held, expected, strict=False))), "")
    if isinstance(expected, Tensor) and isinstance(held, Tensor) and held.dtype != expected.dtype:
        if _is_count(expected, held):
            return ""
        return f"its {name} is {held.dtype}, not {expected.dtype}"
    return ""


def _put_back(held: object, saved: object, expected: object) -> None:
    """Give what torch has cast its dtype back, as saved: unless a hook has changed it since."""
    places: Iterable[Any] = ()
    if isinstance(held, MutableMapping) and isinstance(saved, Mapping) and isinstance(expected, Mapping):
        places = held.keys() & saved.keys() & expected.keys()
    elif isinstance(held, list) and isinstance(saved, _LISTS) and isinstance(expected, _LISTS):
        places = range(min(len(held), len(saved), len(expected)))
    for key in places:
        now, before, then = held[key], saved[key], expected[key]  # type: ignore[index]  # all of one kind
        if not (isinstance(now, Tensor) and isinstance(before, Tensor) and isinstance(then, Tensor)):
            _put_back(now, before, then)
        elif now.dtype != then.dtype == before.dtype:
            same = _equal(before.to(now), now)
            held[key] = before.to(now.device, copy=True) if same else now.to(then.dtype)  # type: ignore[index]  # of one kind, too


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal; of those that are made of others, as torchao's packed state is, these."""
    if isinstance(one, DTensor) or not is_traceable_wrapper_subclass(one):
        as_bytes = one.dtype.itemsize == 1  # torch compares no float8
        return torch.equal(one.view(torch.uint8), other.view(torch.uint8)) if as_bytes else torch.equal(one, other)
    return all(_equal(getattr(one, each), getattr(other, each)) for each in one.__tensor_flatten__()[0])


def _cast(held: Any, expected: object) -> Any:
    """Return what was held in another way between steps in the dtypes that steps keep it in here."""
    if isinstance(held, dict) and isinstance(expected, Mapping):
        return {key: _cast(value, expected.get(key)) for key, value in held.items()}
    if isinstance(held, (list, tuple)) and isinstance(expected, _LISTS):
        same = len(held) == len(expected)
        return type(held)(_cast(*pair) for pair in zip(held, expected, strict=True)) if same else held
    if isinstance(held, Tensor) and isinstance(expected, Tensor) and held.dim() and held.is_floating_point():
        return held.to(expected.dtype)
    return held


def _is_count(*tensors: Tensor) -> bool:
    """Whether tensors hold one number each, which packages keep in any shape and dtype."""
    return all(each.numel() == 1 for each in tensors)
