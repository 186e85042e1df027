"""What a pattern chooses, asked of the plan, and of `re` alone."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

import anyoptim
from anyoptim.routing.routes import Routing


def ours(model: nn.Module, target: Any) -> set[str]:
    return {each.name for each in routed(model, target).targets}


def routed(model: nn.Module, target: Any, name: str = "apollo_adamw", **overrides: Any) -> Routing:
    routing = anyoptim.plan(name, model, optim_target_modules=target, **overrides).routing
    assert routing is not None
    return routing


def matches(item: str, name: str) -> bool:
    return item in name or re.fullmatch(item, name) is not None
