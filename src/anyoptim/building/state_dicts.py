"""State dicts that torch's distributed checkpoints can carry, and what these lose put back.

``torch.distributed.checkpoint`` was made for AdamW's state. It takes no parameter without a tensor of one dimension or
more, no values such as a dtype, no sums over ranks, no state of no parameter and no numbers beside state and groups.
It sends tensors by their memory, whatever their strides. It brings tuples back as lists, numbers as plain tensors, and
empty containers not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer

from anyoptim.engines.loading import of_every_parameter, of_those_with_state

_DTYPE = "torch."
_SHARED = "state of no parameter"
_BESIDE = "beside state and groups"
CARRIED = frozenset({_SHARED, _BESIDE})
"""Keys of groups that hold what is no group's."""
_TORCHS = ("state", "param_groups")


def carry(optimizer: Optimizer, written: Callable[[Any], Any] | None) -> None:
    """Let an optimizer's state go through torch's distributed checkpoints as it is.

    Args:
        optimizer: it.
        written: what makes plain values of a parameter's state before it is carried, if something does.
    """
    optimizer.register_state_dict_post_hook(_to_be_carried)
    # the last to save and the first to load: heavyball's own hook takes its numbers out of a state dict
    optimizer.register_load_state_dict_pre_hook(partial(_carried, written), prepend=True)


def _to_be_carried(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any] | None:
    if not _on_a_mesh(optimizer):
        return None  # as torch writes it
    shared = {key: held for key, held in state_dict["state"].items() if isinstance(key, str)}
    if shared:
        first, *others = state_dict["param_groups"]
        own = {key: held for key, held in state_dict["state"].items() if key not in shared}
        state_dict = {**state_dict, "state": own, "param_groups": [{**first, _SHARED: shared}, *others]}
    beside = {key: each for key, each in state_dict.items() if key not in _TORCHS and _is_number(each)}
    if beside:
        first, *others = state_dict["param_groups"]
        state_dict = {**state_dict, "param_groups": [{**first, _BESIDE: beside}, *others]}
    state_dict = of_every_parameter(optimizer, state_dict)
    return {**state_dict, **{key: _plain(state_dict[key]) for key in ("state", "param_groups")}}


def _carried(written: Callable[[Any], Any] | None, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    state_dict = of_those_with_state(state_dict)
    groups = [
        {**group, **_as_before({key: each for key, each in group.items() if key != "params"}, live)}
        for group, live in zip(state_dict["param_groups"], optimizer.param_groups, strict=False)
    ]
    # by names in torch's distributed checkpoints, by numbers otherwise
    keys = [each for group in state_dict["param_groups"] for each in group["params"]]
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    live = {key: optimizer.state.get(each, {}) for key, each in zip(keys, every, strict=False)}
    before = {key: written(each) for key, each in live.items()} if written else live
    state = {key: _as_before(held, before.get(key)) for key, held in state_dict["state"].items()}
    beside: dict[str, Any] = {}
    for group in groups:
        state.update(group.pop(_SHARED, {}))
        beside.update(group.pop(_BESIDE, {}))
    return {
        **state_dict,
        **beside,
        "state": state,
        "param_groups": [*groups, *state_dict["param_groups"][len(groups) :]],
    }


def _on_a_mesh(optimizer: Optimizer) -> bool:
    return any(isinstance(parameter, DTensor) for group in optimizer.param_groups for parameter in group["params"])


def _plain(value: Any) -> Any:
    """Return a value without what cannot be carried."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if not isinstance(each, type)}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, DTensor) and any(each.is_partial() for each in value.placements):
        value = value.redistribute(placements=[Replicate() if each.is_partial() else each for each in value.placements])
    return value.contiguous() if isinstance(value, Tensor) else value


def _is_number(value: Any) -> bool:
    """Whether a value is a number, or a mapping of numbers."""
    if isinstance(value, dict):
        return bool(value) and all(map(_is_number, value.values()))
    return isinstance(value, (int, float))


def is_empty(value: Any) -> bool:
    """Whether a value is containers of nothing, which torch's distributed checkpoints leave out."""
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, (list, tuple)) and all(map(is_empty, value))


def _as_before(value: Any, before: Any) -> Any:
    """Return a loaded value as what stands in its place: of its type, on its mesh, in its memory format."""
    if isinstance(value, dict) and isinstance(before, Mapping):
        lost = {key: each for key, each in before.items() if key not in value and is_empty(each)}
        return {**lost, **{key: _as_before(each, before.get(key)) for key, each in value.items()}}
    if isinstance(value, (list, tuple)) and isinstance(before, (list, tuple)) and len(value) == len(before):
        each = [_as_before(one, other) for one, other in zip(value, before, strict=True)]
        return tuple(each) if isinstance(before, tuple) else each
    if isinstance(before, torch.dtype) and isinstance(value, str):
        return getattr(torch, value.removeprefix(_DTYPE), before)
    if isinstance(before, DTensor) and isinstance(value, Tensor) and not isinstance(value, DTensor) and not value.dim():
        mesh = before.device_mesh
        return DTensor.from_local(value.to(before.device), mesh, [Replicate()] * mesh.ndim, run_check=False)
    if isinstance(before, Tensor) and type(value) is type(before) and value.shape == before.shape:
        # a product of the same numbers in another order in memory may round otherwise
        return value if value.stride() == before.stride() else torch.empty_like(before, dtype=value.dtype).copy_(value)
    return value
