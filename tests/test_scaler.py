"""A gradient scaler around every kind of facade: unscaled gradients, and steps that overflow left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import anyoptim

AROUND = [
    "adamw_torch_fused",
    "lookahead(adamw_torch_fused)",
    "cautious(adamw_torch_fused)",
    "orthograd(adamw_torch_fused)",
    "schedule_free(adamw_torch_fused)",
    "lookahead(orthograd(adamw_torch_fused))",
    "muon+adamw_torch_fused",
    "lookahead(muon+adamw_torch_fused)",
]


def trained(name: str, scaler: torch.amp.GradScaler, *, overflow: bool = False) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer: Any = anyoptim.get_optimizer(name, model, lr=1e-2)
    if hasattr(optimizer, "train"):
        optimizer.train()
    for number in range(3):
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(number))
        scaler.scale(model(inputs).pow(2).mean()).backward()
        if overflow and number == 1:
            gradient = next(model.parameters()).grad
            assert gradient is not None
            gradient[0, 0] = torch.inf
        elif overflow and number == 2:
            break
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if number == 0:
            after_one = [each.detach().clone() for each in model.parameters()]
    return [*(each.detach() for each in model.parameters()), *after_one]


@pytest.mark.parametrize("name", AROUND)
def test_gradients_are_unscaled(name: str) -> None:
    scaled = trained(name, torch.amp.GradScaler("cpu", init_scale=2.0**16))
    plain = trained(name, torch.amp.GradScaler("cpu", enabled=False))
    for one, other in zip(scaled, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", AROUND)
def test_a_step_that_overflows_is_left_out(name: str) -> None:
    weights = trained(name, torch.amp.GradScaler("cpu"), overflow=True)
    half = len(weights) // 2
    assert all(torch.equal(one, other) for one, other in zip(weights[:half], weights[half:], strict=True))
