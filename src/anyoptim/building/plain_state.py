"""An optimizer's own objects, queues and sets as plain values, which are what a state dict may hold.

Keys that are numbers become text on purpose: torch's distributed checkpoints make them so, for good.

Only classes of the optimizer's own package that are imported already are made again, without calling them.
"""

from __future__ import annotations

import enum
import sys
from collections import deque
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from anyoptim.engines.facade import Facade
from anyoptim.engines.on_shards import stood_for


def keep_plain(optimizer: Optimizer) -> None:
    """Write what is not plain into state dicts as plain values, and make it from these before the next step."""
    package = _package(optimizer)
    waiting: set[Any] = set()

    def save(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {**state_dict, "state": {index: _plain(held, package) for index, held in state_dict["state"].items()}}

    def loaded(_: Optimizer) -> None:
        waiting.update(optimizer.state)

    def restore(this: Optimizer, *_: object) -> None:
        if waiting:
            for key, held in this.state.items():
                owner = stood_for(key) if isinstance(key, Tensor) else key
                if owner in waiting:
                    waiting.discard(owner)
                    device = key.device if isinstance(key, Tensor) else torch.get_default_device()
                    this.state[key] = _made_again(held, package, device)

    optimizer.register_state_dict_post_hook(save)
    optimizer.register_load_state_dict_post_hook(loaded)
    # not when it is loaded: a class may look at what it has loaded once more
    optimizer.register_step_pre_hook(restore)


def as_plain(optimizer: Optimizer, state: object) -> Any:
    """Return how :func:`keep_plain` writes the state of a parameter."""
    return _plain(state, _package(optimizer))


def _package(optimizer: Optimizer) -> str:
    while isinstance(optimizer, Facade):
        optimizer = optimizer.optimizer
    return type(optimizer).__module__.partition(".")[0]


_QUEUE, _OBJECT, _SET, _NUMBER, _TEXT = "queue of ", "object of ", "set of values", "number ", "text "
_ELEMENT, _FULL_QUEUE = "tensor of one element", "full queue of "
_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.bool)


def _plain(value: Any, package: str) -> Any:
    if isinstance(value, dict):
        return {
            f"{_NUMBER}{key}" if isinstance(key, (int, float)) else key: _plain(each, package)
            for key, each in value.items()
        }
    if isinstance(value, deque):
        held = [_plain(each, package) for each in value]
        if not held or value.maxlen is None:
            return {f"{_QUEUE}{value.maxlen}": held}
        # as long as it ever gets: torch's distributed checkpoints load what the first step has made, and no more
        # into tensors of their own
        rest = [tree_map_only(Tensor, torch.clone, held[0]) for _ in range(value.maxlen - len(held))]
        return {f"{_FULL_QUEUE}{value.maxlen}": [len(held), *held, *rest]}
    if isinstance(value, set):
        return {_SET: sorted(value)}
    if type(value) is Tensor and value.numel() == 1 and value.dtype in _DTYPES:
        # with its dtype and dimensions, which may change as it trains: torch would load it into those of the first step
        return {_ELEMENT: [value.item(), _DTYPES.index(value.dtype), value.dim()]}
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, str):
        return {f"{_TEXT}{value}": True}
    if isinstance(value, (list, tuple)):
        plain = [_plain(each, package) for each in value]
        return plain if isinstance(value, list) else tuple(plain)  # a torch.Size, too
    if type(value).__module__.partition(".")[0] == package:
        path = f"{type(value).__module__}:{type(value).__qualname__}"
        return {f"{_OBJECT}{path}": _plain(vars(value), package)}
    return value.item() if type(value).__module__ == "numpy" else value


def _made_again(value: Any, package: str, device: torch.device) -> Any:
    if isinstance(value, dict):
        # a key holds the kind: torch casts the values of state that it loads, text included
        kind = next((key for key in value if isinstance(key, str)), "") if len(value) == 1 else ""
        if kind.startswith(_FULL_QUEUE):
            count, *held = value[kind]
            first = [_made_again(each, package, device) for each in held[: int(count)]]
            return deque(first, maxlen=int(kind.removeprefix(_FULL_QUEUE)))
        if kind.startswith(_QUEUE):
            length = kind.removeprefix(_QUEUE)
            held = [_made_again(each, package, device) for each in value[kind]]
            return deque(held, maxlen=None if length == "None" else int(length))
        if kind.startswith(_TEXT):
            return kind.removeprefix(_TEXT)
        if kind == _ELEMENT:
            number, dtype, dims = value[kind]
            return torch.full([1] * int(dims), number, dtype=_DTYPES[int(dtype)], device=device)
        if kind == _SET:
            return set(value[kind])
        if kind.startswith(_OBJECT):
            module_name, _, name = kind.removeprefix(_OBJECT).partition(":")
            cls = getattr(sys.modules.get(module_name), name, None)
            if module_name.partition(".")[0] == package and isinstance(cls, type):
                made: Any = object.__new__(cls)
                vars(made).update(_made_again(value[kind], package, device))
                return made
        return {
            _number(key) if str(key).startswith(_NUMBER) else key: _made_again(each, package, device)
            for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(_made_again(each, package, device) for each in value)
    return value


def _number(key: str) -> int | float:
    text = key.removeprefix(_NUMBER)
    return int(text) if text.isdigit() else float(text)
