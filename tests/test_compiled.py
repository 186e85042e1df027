"""Steps under torch.compile: the plain step's weights, and no graph after the warm-up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engines import ALGORITHMS, FUSED, SHAPES, Net, build, last
from torch import nn
from torch._dynamo.testing import CompileCounter

import anyoptim
from anyoptim.testing import check_optimizer

ENGINES = [
    "grokadamw",
    "apollo_mini",
    "galore_adamw",
    "galore_adamw_8bit",
    "adalomo",
    "muon",
    "schedule_free",
    "lookahead",
]


@pytest.mark.parametrize("name", ENGINES)
def test_no_graph_is_made_after_the_warm_up(name: str) -> None:
    assert check_optimizer(name, checks=["torch.compile"])


@pytest.mark.parametrize("name", [each for each in ALGORITHMS if each not in FUSED])
def test_a_step_sets_no_attribute(name: str) -> None:
    """torch 2.11 compiles no step that does."""
    model = Net(SHAPES)
    optimizer = build(name, model)
    before = dict(vars(optimizer))
    last(model, optimizer, range(2))
    assert {key for key, value in vars(optimizer).items() if before.get(key) is not value} == set()


@pytest.mark.parametrize("name", ["lookahead(lion)", "schedule_free(lion)", "lookahead(optimi/adam)", "cautious(lion)"])
def test_state_that_is_made_behind_a_graph_is_kept(name: str) -> None:
    """Dynamo runs a package's ``_init_group`` while it traces."""
    models, optimizers = [], []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(4, 4, bias=False)
        optimizer: Any = anyoptim.get_optimizer(name, model, lr=1e-2)
        if hasattr(optimizer, "train"):
            optimizer.train()
        models.append(model)
        torch.compiler.reset()
        optimizers.append(torch.compile(optimizer.step, backend=CompileCounter()) if compiled else optimizer.step)
    for number in range(12):
        gradient = torch.randn(4, 4, generator=torch.Generator().manual_seed(number))
        for model, step in zip(models, optimizers, strict=True):
            model.weight.grad = gradient.clone()
            step()
    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=0, atol=1e-6)  # Adam's corrections round
