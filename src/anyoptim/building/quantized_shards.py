"""torchao's optimizers on sharded parameters: steps on this process's plain part, and state that checkpoints can hold.

Their step is compiled. What is compiled for one rank's part of a DTensor may be taken from a cache for another's,
whose size is another, so the step gets plain tensors here, which are compiled by their own sizes. And a block of
quantized values ends where a shard does only if all ranks' shards are alike: elsewhere moments stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from anyoptim.engines.stepping import evaluated

_PARTS = ("codes", "scale")
"""What a quantized tensor is made of; its table of values is a constant."""
_SIGNED = {"exp_avg": True, "exp_avg_sq": False, "max_exp_avg_sq": False}


def step_on_parts(optimizer: Any) -> None:
    """Let an optimizer of torchao step on the local parts of DTensors, and write their quantized state as plain one."""
    step: Callable[[Any], None] = type(optimizer).step

    # not as a wrapper of it: facades call what is wrapped
    def step_on_plain_tensors(this: Any, closure: Callable[[], float] | None = None) -> float | None:
        loss = evaluated(closure)
        parts = {each: _part(each) for group in this.param_groups for each in group["params"]}
        twin = object.__new__(type(this))
        groups = [{**group, "params": [parts[each] for each in group["params"]]} for group in this.param_groups]
        state = {parts[each]: _mapped(local, held) for each, held in this.state.items() if each in parts}
        vars(twin).update({**vars(this), "param_groups": groups, "state": _Made(state)})
        wholes = {part: each for each, part in parts.items()}
        twin._new_buffer = lambda part, signed: _buffer(this, wholes[part], part, signed)
        step(twin)
        for part, held in twin.state.items():
            whole = wholes[part]
            if whole not in this.state or not this.state[whole]:
                this.state[whole] = {
                    key: _shard(value, whole) if key in _SIGNED else value for key, value in held.items()
                }
        return loss

    optimizer.step = MethodType(step_on_plain_tensors, optimizer)
    optimizer.register_state_dict_post_hook(_save)
    optimizer.register_load_state_dict_pre_hook(_load)


class _Made(dict[Tensor, dict[str, Any]]):
    """State by the parts of parameters."""

    def __missing__(self, key: Tensor) -> dict[str, Any]:
        self[key] = {}
        return self[key]


def local(value: Any) -> Any:
    """Return this process's part of a DTensor; anything else as it is."""
    return value.to_local() if isinstance(value, DTensor) else value


def _mapped(function: Callable[[Any], Any], held: dict[str, Any]) -> dict[str, Any]:
    return {key: function(value) for key, value in held.items()}


def _part(parameter: Tensor) -> Tensor:
    """Return the plain part of a DTensor, in the same memory, with its gradient; another parameter as it is."""
    if not isinstance(parameter, DTensor):
        return parameter
    part: Tensor = local(parameter.detach())
    part.grad = local(parameter.grad)
    return part


def _alike(parameter: Tensor) -> bool:
    """Whether all ranks hold parts of one size."""
    if not isinstance(parameter, DTensor):
        return True
    shards: dict[int, int] = {}
    for size, placement in zip(parameter.device_mesh.shape, parameter.placements, strict=True):
        dim = getattr(placement, "dim", None)
        if dim is not None:
            shards[dim] = shards.get(dim, 1) * size
    return all(parameter.shape[dim] % count == 0 for dim, count in shards.items())


def _buffer(optimizer: Any, whole: Tensor, part: Tensor, signed: bool) -> Tensor:
    made: Tensor = type(optimizer)._new_buffer(optimizer, part, signed) if _alike(whole) else torch.zeros_like(part)
    return made


def _shard(part: Tensor, whole: Tensor) -> Tensor:
    """Return the DTensor that a moment of a sharded parameter is."""
    if not isinstance(whole, DTensor):
        return part
    return DTensor.from_local(
        part, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    ).to(whole.device)


def _save(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    state = {
        index: {key: _taken_apart(value) for key, value in held.items()} for index, held in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def _taken_apart(value: Any) -> Any:
    """Return the parts of a sharded quantized tensor as DTensors: torch can gather these, and their union not."""
    if not isinstance(value, DTensor) or not is_traceable_wrapper_subclass(value.to_local()):
        return value
    quantized: Any = value.to_local()
    # in one dimension, as blocks are; all ranks' parts are of one size
    split = [Shard(0) if getattr(each, "dim", None) is not None else each for each in value.placements]
    ranks = math.prod(
        size for size, each in zip(value.device_mesh.shape, split, strict=True) if isinstance(each, Shard)
    )
    parts = {name: _bytes(getattr(quantized, name)) for name in _PARTS}
    return {
        name: DTensor.from_local(
            part, value.device_mesh, split, run_check=False, shape=torch.Size([len(part) * ranks]), stride=(1,)
        )
        for name, part in parts.items()
    }


def _load(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    indices = [index for group in state_dict["param_groups"] for index in group["params"]]
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parameter_of = dict(zip(indices, every, strict=False))
    state = {
        index: {
            key: _put_together(optimizer, key, value, parameter_of[index]) if _is_taken_apart(value) else value
            for key, value in held.items()
        }
        for index, held in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def _is_taken_apart(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == set(_PARTS)


def _put_together(optimizer: Any, key: str, parts: dict[str, Tensor], parameter: Tensor) -> Tensor:
    quantized = optimizer._subclass_zeros(local(parameter.detach()), _SIGNED[key], optimizer.block_size)
    for name in _PARTS:
        held = getattr(quantized, name)
        _bytes(held).copy_(local(parts[name]))
    return _shard(quantized, parameter)


def _bytes(tensor: Tensor) -> Tensor:
    """Return codes or scales as one row in the same memory: codes as bytes, which every backend can send."""
    flat = tensor.view(-1)
    return flat.view(torch.uint8) if flat.dtype.itemsize == 1 else flat
