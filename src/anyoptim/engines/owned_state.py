"""State dicts of an optimizer whose parameters have owners: as if each process had the state of its part.

Only the owner knows what state a parameter has, so all tell each other first; then tensors go in batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_flatten_with_path, tree_map_only, tree_map_with_path

from anyoptim.engines.distributed import local
from anyoptim.engines.exchange import Collection, Parcel, Return
from anyoptim.engines.layout import (
    as_rows,
    as_shard,
    is_split_by_rows,
    layout_of,
    replicated,
    rows_of,
    transfer_device,
)
from anyoptim.engines.loading import between_hooks, packed
from anyoptim.engines.ownership import batches
from anyoptim.engines.packed_state import lies_by_rows

Place = tuple[int, Any]
"""A tensor in a state dict: the number of the parameter, and the keys that lead to it in that one's state."""


class HasOwners(Protocol):
    """What is asked of :class:`anyoptim.engines.owned.Owned`."""

    optimizer: Optimizer
    bound: int
    outside: frozenset[str]

    def every(self) -> list[Tensor]:
        """Return the parameters of all groups."""

    def owner(self, parameter: Tensor) -> int:
        """Return the rank that owns a parameter."""

    def by_communicator(self, chosen: Iterable[tuple[int, Tensor]]) -> list[tuple[Any, list[tuple[int, Tensor]]]]:
        """Return the parameters that several processes share, those of the same processes together."""


@dataclass(frozen=True)
class _Kind:
    """What the others have to know of a tensor that its owner holds."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str

    def is_of(self, parameter: Tensor) -> bool:
        """Whether it lies on the processes as the parameter does."""
        return self.shape == tuple(parameter.shape) and parameter.dim() > 0


def spread(facade: HasOwners, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict in which every process has its part of each parameter's state.

    Args:
        facade: the optimizer.
        state_dict: of the optimizer inside; parameters that are others' have nothing in it.
    """
    laid = _outside(facade, state_dict["state"])
    state = {key: _without(held, laid.get(key, {})) for key, held in state_dict["state"].items()}
    state = {key: held for key, held in state.items() if held != {}}
    for communicator, members in facade.by_communicator(enumerate(facade.every())):
        parameters = dict(members)
        own = {number: state[number] for number in parameters if number in state}
        told: list[Any] = [None] * dist.get_world_size(communicator)
        dist.all_gather_object(told, tree_map_only(Tensor, _kind, own), communicator)
        known = {number: held for of_rank in told for number, held in of_rank.items()}
        state.update(_replaced(known, _parts(facade, communicator, parameters, own, known)))
    # wrappers step on shards, outside of owners
    state.update((key, {**state.get(key, {}), **held}) for key, held in laid.items() if held)
    numbers = sorted(key for key in state if isinstance(key, int))
    return {**state_dict, "state": {**{key: state[key] for key in numbers}, **state}}


def _parts(
    facade: HasOwners, communicator: Any, parameters: Mapping[int, Tensor], own: dict[int, Any], known: dict[int, Any]
) -> dict[Place, Tensor]:
    """Return this process's part of each tensor that is known of."""
    ranks = dist.get_world_size(communicator)
    kinds = {place: kind for place, kind in _tensors(known) if isinstance(kind, _Kind)}
    parcels = {}
    for place, kind in kinds.items():
        parameter = parameters[place[0]]
        layout = layout_of(parameter) if kind.is_of(parameter) else replicated(kind.shape, ranks)
        layout = rows_of(parameter, kind.shape) if _has_its_rows(place, parameter) else layout
        parcels[place] = Parcel(layout, facade.owner(parameter), kind.dtype)
    held = dict(_tensors(own))
    parts: dict[Place, Tensor] = {}
    for batch in _batched(facade, parcels):
        wholes = {at: held[place] for at, place in enumerate(batch) if place in held}
        device = transfer_device(parameters[batch[0][0]])
        arrived = Return(communicator, device, [parcels[place] for place in batch], wholes).wait()
        parts.update((batch[at], part.clone()) for at, part in arrived.items())
    return {place: _as_state(parts.get(place), kind, place, parameters[place[0]]) for place, kind in kinds.items()}


def _has_its_rows(place: Place, parameter: Tensor) -> bool:
    """Whether a tensor of the state is of a parameter's rows, which lie on several processes."""
    return lies_by_rows(getattr(place[1][0], "key", None)) and is_split_by_rows(parameter)


def _as_state(part: Tensor | None, kind: _Kind, place: Place, parameter: Tensor) -> Tensor:
    """Return a part as what a state dict holds: a DTensor where it lies as the parameter does."""
    of_parameter, by_rows = kind.is_of(parameter), _has_its_rows(place, parameter)
    if part is None:  # an empty one, of which nothing is sent
        shape = local(parameter).shape if of_parameter else (0, *kind.shape[1:]) if by_rows else kind.shape
        part = torch.empty(shape, dtype=kind.dtype)
    part = part.to(parameter.device if kind.device == parameter.device.type else kind.device)
    return as_rows(part, parameter) if by_rows else as_shard(part, parameter) if of_parameter else part


def load(facade: HasOwners, state_dict: dict[str, Any]) -> None:
    """Load a state dict, of which each process keeps the state of the parameters that it owns.

    Args:
        facade: the optimizer.
        state_dict: whose tensors are DTensors on the parameters' mesh, or whole.
    """
    keys = [key for group in state_dict["param_groups"] for key in group["params"]]
    every = facade.every()
    number_of = {key: number for number, key in enumerate(keys[: len(every)])}
    given = {number_of.get(key, key): held for key, held in state_dict["state"].items()}
    laid = _outside(facade, given)
    given = {key: _without(held, laid.get(key, {})) for key, held in given.items()}
    kept = dict(given)
    # not by its own state_dict(), which takes no parameters of others with whom it shares a state
    before = between_hooks(facade.optimizer, lambda: packed(facade.optimizer))["state"]
    for communicator, members in facade.by_communicator(enumerate(every)):
        parameters = {number: parameter for number, parameter in members if number in given}
        me = dist.get_rank(communicator)
        shards = {
            place: _laid_out(value, parameters[place[0]])
            for place, value in sorted(_tensors({number: given[number] for number in parameters}), key=str)
            if isinstance(value, DTensor)
        }
        parcels = {
            place: Parcel(layout_of(value), facade.owner(parameters[place[0]]), value.dtype)
            for place, value in shards.items()
        }
        wholes: dict[Place, Tensor] = {}
        for batch in _batched(facade, parcels):
            device = transfer_device(parameters[batch[0][0]])
            parts = [local(shards[place]) for place in batch]
            coming = Collection(communicator, device, [parcels[place] for place in batch], parts)
            wholes.update((batch[at], whole) for at, whole in coming.wait(parts[0].device).items())
        for number, parameter in parameters.items():
            del kept[number]
            if facade.owner(parameter) == me:
                kept[number] = _as_before(_replaced({number: given[number]}, wholes)[number], before.get(number, {}))
    kept.update((key, {**kept.get(key, {}), **held}) for key, held in laid.items() if held)
    state = {keys[key] if isinstance(key, int) else key: held for key, held in kept.items()}
    facade.optimizer.load_state_dict({**state_dict, "state": state})
    _put_back_dtypes(facade.optimizer.state, {every[key]: held for key, held in kept.items() if isinstance(key, int)})
    for number in given:
        if isinstance(number, int):
            facade.optimizer.state.setdefault(every[number], {})


def _put_back_dtypes(state: Any, loaded: dict[Tensor, Any]) -> None:
    """Give back the dtype of what ``torch.optim.Optimizer`` has cast to the parameter's."""
    for parameter, held in loaded.items():

        def as_loaded(path: Any, value: Any, held: Any = held) -> Any:
            before = _at(held, path)
            if isinstance(value, Tensor) and isinstance(before, Tensor) and before.dtype != value.dtype:
                return before.to(value.device)
            return value

        if parameter in state:
            state[parameter] = tree_map_with_path(as_loaded, state[parameter])


def _outside(facade: HasOwners, state: Mapping[Any, Any]) -> dict[int, dict[str, Any]]:
    """Return what wrappers keep of each parameter, by its number."""
    return {
        number: {key: value for key, value in held.items() if key in facade.outside}
        for number, held in state.items()
        if isinstance(number, int) and facade.outside
    }


def _without(state: Any, others: Mapping[str, Any]) -> Any:
    return {key: value for key, value in state.items() if key not in others} if others else state


def _batched(facade: HasOwners, parcels: dict[Place, Parcel]) -> Iterator[list[Place]]:
    places = list(parcels)
    sizes = [torch.Size(each.layout.shape).numel() * each.dtype.itemsize for each in parcels.values()]
    for batch in batches([each.owner for each in parcels.values()], sizes, range(len(places)), facade.bound):
        yield [places[index] for index in batch]


def _kind(tensor: Tensor) -> _Kind:
    return _Kind(tuple(tensor.shape), tensor.dtype, tensor.device.type)


def _laid_out(value: DTensor, parameter: Tensor) -> DTensor:
    """Return a tensor of a parameter's state as that one lies, where it came in another way."""
    if isinstance(parameter, DTensor) and value.shape == parameter.shape and value.placements != parameter.placements:
        return value.redistribute(placements=parameter.placements)
    return value


def _as_before(held: Any, before: Any) -> Any:
    """Return loaded state in the memory format of what the first step has made: torch sends tensors without it."""

    def laid(path: Any, value: Any) -> Any:
        live = _at(before, path)
        if not (isinstance(value, Tensor) and isinstance(live, Tensor)) or live.shape != value.shape:
            return value
        return value if live.stride() == value.stride() else torch.empty_like(live, dtype=value.dtype).copy_(value)

    return tree_map_with_path(laid, held)


def _at(state: Any, path: Sequence[Any]) -> Any:
    for key in path:
        try:
            state = key.get(state)
        except (KeyError, IndexError, TypeError, AttributeError):
            return None
    return state


def _tensors(state: Any) -> Iterator[tuple[Place, Any]]:
    """Yield what stands in states by the parameter's number: a tensor, or what says of which kind it is."""
    for number, held in sorted(state.items()):
        for path, value in tree_flatten_with_path(held)[0]:
            if isinstance(value, (Tensor, _Kind)):
                yield (number, path), value


def _replaced(states: dict[int, Any], by: dict[Place, Tensor]) -> dict[int, Any]:
    """Return states with other tensors in some places."""
    return {
        number: tree_map_with_path(lambda path, value, number=number: by.get((number, path), value), held)
        for number, held in states.items()
    }
