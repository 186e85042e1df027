"""Values and dtypes that no step could be right with are refused, with a plan and without."""

from __future__ import annotations

import inspect
import math
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import nn

import anyoptim
from anyoptim.engines.grokadamw import GrokAdamW
from anyoptim.engines.wrapper import Wrapper

NATIVE = {
    own.target: own
    for name in anyoptim.list_optimizers()
    for own in anyoptim.optimizer_info(name).implementations
    if own.name == "native" and isinstance(own.target, str)
}


@pytest.mark.parametrize("target", NATIVE)
def test_values_out_of_range_are_refused_without_a_plan_too(target: str) -> None:
    own = NATIVE[target]
    engine, is_wrapper = own.load(), issubclass(own.load(), Wrapper)

    def built(**values: Any) -> Any:
        parameter = nn.Parameter(torch.ones(4, 4))
        of_group = {key: value for key, value in values.items() if key not in inspect.signature(engine).parameters}
        others = {key: value for key, value in values.items() if key not in of_group}
        inside = torch.optim.SGD([parameter]) if is_wrapper else [{"params": [parameter], **of_group}]
        return engine(inside, **others)

    assert built().param_groups
    ranged = [each for each in own.hyperparameters if each.within is not None and not each.member]
    assert {"lr", "weight_decay"} <= {each.name for each in ranged} or is_wrapper
    for each in ranged:
        for value in (-1.0, 2.0, math.inf):
            if value in each.within:
                continue
            given = (0.5, value) if isinstance(each.default, tuple) else value
            with pytest.raises(ValueError, match=f"{engine.__name__}: {each.keyword} must be"):
                built(**{each.keyword: given})


def test_a_group_out_of_range_is_not_added() -> None:
    optimizer = GrokAdamW([nn.Parameter(torch.ones(2))], lr=0.1)
    with pytest.raises(ValueError, match="lr must be >= 0, not -1"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": -1.0})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("target", [each for each in NATIVE if not issubclass(NATIVE[each].load(), Wrapper)])
def test_several_dtypes_in_one_group(target: str) -> None:
    engine: Any = NATIVE[target].load()
    by_place = {"gamma": 0.0} if target.endswith("GrokAdamW") else {}
    for dtypes in permutations([torch.float32, torch.float64, torch.bfloat16]):
        parameters = [nn.Parameter(torch.ones(4, 4, dtype=dtype)) for dtype in dtypes]
        optimizer = engine(parameters, lr=0.1, **by_place)
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        first = parameters[dtypes.index(torch.float64)]
        for parameter, dtype in zip(parameters, dtypes, strict=True):
            assert parameter.dtype is dtype
            assert torch.allclose(parameter.double(), first, atol=0.02)
