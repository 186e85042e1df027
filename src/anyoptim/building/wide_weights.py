"""The full-precision weights of a model whose optimizer keeps what lies behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from anyoptim.building.records import built
from anyoptim.engines.composite import CompositeOptimizer, inside
from anyoptim.engines.distributed import local
from anyoptim.engines.layout import as_shard
from anyoptim.engines.loading import packed
from anyoptim.engines.owned import Owned
from anyoptim.engines.packed_state import remainders, wide_weight
from anyoptim.engines.packing import HALF


@torch.no_grad()
def fp32_weights(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return a model's weights in fp32, with what the optimizer keeps behind those in bf16 and fp16.

    Under FSDP2 they are DTensors, and all processes have to call it.

    Args:
        model: whose parameters the optimizer has; others of its are converted.
        optimizer: built with ``master_weights=``, with accelerate's wrapper or without; any other adds nothing.

    Returns:
        by the names of ``model.state_dict()``; weights of other dtypes and buffers as they are.
    """
    behind = _behind(built(optimizer) or optimizer)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        parameter = parameters.get(name)
        if not isinstance(value, Tensor) or value.dtype not in HALF or parameter is None:
            found[name] = value
            continue
        held = {
            key: local(each) if isinstance(each, Tensor) else each for key, each in behind.get(parameter, {}).items()
        }
        wide = wide_weight(local(parameter.detach()), {key: _beside(each, parameter) for key, each in held.items()})
        found[name] = as_shard(wide, parameter) if isinstance(parameter, DTensor) else wide
    return found


def _behind(optimizer: Optimizer) -> dict[Tensor, dict[str, Any]]:
    """Return what lies behind each weight, as the weight lies: of one that has an owner, from there."""
    state: Mapping[Any, Any] = optimizer.state
    if any(True for _ in inside(optimizer, Owned)):
        facade: Any = optimizer
        saved = facade._to_save() if isinstance(optimizer, CompositeOptimizer) else facade.to_save(packed(optimizer))
        every = [each for group in optimizer.param_groups for each in group["params"]]
        state = {every[key]: held for key, held in saved["state"].items() if isinstance(key, int)}
    return {key: remainders(held) for key, held in state.items() if isinstance(key, Tensor) and held}


def _beside(value: Any, parameter: Tensor) -> Any:
    return value.to(local(parameter.detach()).device) if isinstance(value, Tensor) else value


@contextmanager
def wide_in_place(model: nn.Module, optimizer: Optimizer | None) -> Iterator[None]:
    """Hold the full-precision weights in a model for a while, and exactly its own again afterwards.

    Args:
        model: one whose parameters are in bf16 or fp16 takes twice their bytes more meanwhile.
        optimizer: see :func:`fp32_weights`; without one nothing happens.
    """
    if optimizer is None:
        yield
        return
    wide = fp32_weights(model, optimizer)
    kept: dict[nn.Parameter, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.dtype in HALF and parameter not in kept:
            kept[parameter] = parameter.data
            parameter.data = wide[name]
    try:
        yield
    finally:
        for parameter, data in kept.items():
            parameter.data = data
