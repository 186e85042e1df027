"""Loops of accelerate's: what a launcher chose, not TrainingArguments."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from toys import arguments, llama, same_weights, train, weights
from transformers import Trainer

import anyoptim

REFUSED = {
    "lomo": ({}, "updates inside the backward pass"),
    "adalomo": ({}, "updates inside the backward pass"),
    "adamw_torch": ({"fused_backward": True}, "updates inside the backward pass"),
    "sam(sgd)": ({}, "evaluates the loss inside its step"),
    "sophia": ({}, "differentiates gradients"),
}


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_a_launchers_fp16_is_refused_before_a_weight_moves(name: str, enabled: bool) -> None:
    """A scaler in force, as ACCELERATE_MIXED_PRECISION=fp16 makes one on a device that has fp16."""
    settings, sentence = REFUSED[name]
    model = torch.nn.Linear(4, 4)
    before = weights(model)
    accelerator = Accelerator(cpu=True)
    with anyoptim.enable() if enabled else contextlib.nullcontext():
        accelerator.prepare(anyoptim.get_optimizer(name, model, lr=1e-3, **settings))
        accelerator.scaler = torch.amp.GradScaler("cpu")
        with pytest.raises(anyoptim.UnsupportedError, match=f"{sentence}.*mixed_precision='bf16'"):
            accelerator.backward(model(torch.ones(1, 4)).sum())
        assert same_weights(weights(model), before)
        accelerator.scaler = torch.amp.GradScaler("cpu", enabled=False)
        accelerator.backward(model(torch.ones(1, 4)).sum())


def test_an_ordinary_optimizer_has_its_gradients_scaled_and_unscaled() -> None:
    model = torch.nn.Linear(4, 4, bias=False)
    before = model.weight.detach().clone()
    accelerator = Accelerator(cpu=True)
    optimizer = anyoptim.get_optimizer("lookahead(sgd)", model, lr=1e-3)
    accelerator.scaler = torch.amp.GradScaler("cpu")
    prepared = accelerator.prepare(optimizer)
    accelerator.backward(model(torch.ones(1, 4)).sum())
    prepared.step()
    torch.testing.assert_close(model.weight.detach(), before - 1e-3)


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("name", ["lomo", "sam(sgd)"])
def test_a_trainer_under_a_launchers_fp16(name: str, tmp_path: Path) -> None:
    class Scaled(Trainer):
        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            self.accelerator.scaler = torch.amp.GradScaler("cpu")

    model: Any = llama()
    before = weights(model)
    with pytest.raises(anyoptim.UnsupportedError, match="bf16=True in TrainingArguments"):
        train(model, arguments(tmp_path, optim=name, max_grad_norm=0.0, max_steps=1), Scaled)
    assert same_weights(weights(model), before)
