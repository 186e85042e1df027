"""What trains pairs of LoRA's A and B, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import llama, lora, plain_steps, weights

import anyoptim


def test_what_takes_pairs_of_lora_trains_them() -> None:
    model = lora()
    optimizer = anyoptim.get_optimizer("pytorch_optimizer/lorarite", model, lr=1e-2)
    before = weights(model)
    plain_steps(model, optimizer, 5)
    moved = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert moved == {name for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (llama, {}),
        (lambda: lora(modules_to_save=["lm_head"]), {}),
        (lora, {"lora_plus_ratio": 16.0}),
        (lora, {"groups": [{"match": r"layers\.0\..*lora_B", "weight_decay": 0.1}]}),
    ],
)
def test_what_takes_pairs_of_lora_refuses_anything_else(model: Any, given: dict[str, Any]) -> None:
    with pytest.raises(anyoptim.UnsupportedError, match="trains pairs of a LoRA A and its B, in one group each"):
        anyoptim.plan("pytorch_optimizer/lorarite", model(), **given)


def test_a_whole_pair_may_have_settings_of_its_own() -> None:
    assert len(anyoptim.plan("pytorch_optimizer/lorarite", lora(), optim_args=r"layers\.0\.@lr_ratio=0.1").groups) == 3
