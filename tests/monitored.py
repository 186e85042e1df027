"""Optimizers that are monitored."""

from __future__ import annotations

from typing import Any

from torch import nn

import anyoptim


def monitored(name: str, model: nn.Module, args: str = "", every: int = 1, **given: Any) -> Any:
    optimizer = anyoptim.get_optimizer(name, model, optim_args=",".join(filter(None, [args, "monitor=true"])), **given)
    if hasattr(optimizer, "train"):
        optimizer.train()
    optimizer.monitor.every = every
    return optimizer
