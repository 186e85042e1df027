"""A small regression in float64, and the steps on it that closures and plain loops take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

STEPS = 30
Model = torch.nn.Module


def small(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return model.double()


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(16, 6, generator=generator, dtype=torch.float64)
    return inputs, inputs[:, :3].sin()


def evaluated(model: Model, number: int) -> Callable[[], float]:
    dtype = next(model.parameters()).dtype

    def closure() -> float:
        model.zero_grad()
        inputs, wanted = (each.to(dtype) for each in batch(number))
        loss = torch.nn.functional.mse_loss(model(inputs), wanted)
        loss.backward()
        return float(loss)

    return closure


def steps(model: Model, optimizer: Any, *, closure: bool = False) -> None:
    if hasattr(optimizer, "train"):
        optimizer.train()
    for number in range(STEPS):
        evaluate = evaluated(model, number)
        evaluate()
        optimizer.step(evaluate) if closure else optimizer.step()


def largest_difference(left: Model, right: Model) -> float:
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    return max(float((one - other).detach().abs().max()) for one, other in pairs)
