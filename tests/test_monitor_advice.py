"""What ``monitor=true`` says once: of updates that vanish, a layer that explodes, a rate that is far too high."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from monitored import monitored
from torch import nn
from toys import TINY_LLAMA, llama, plain_steps
from transformers import LlamaForCausalLM

import anyoptim
from anyoptim.engines.monitor_advice import Advice
from anyoptim.engines.readings import Label, Reading, Row, Sums


def row(size: float, *, still: float = 0.0, layer: str = "layer_00", rounds: bool = True, role: str = "hidden") -> Row:
    label = Label(role, layer, is_matrix=role == "hidden", rounds=rounds)
    return Row(label, Sums(size**2, 100.0, still, 1.0, 1.0, 1.0), 1e-3, began=1.0)


def said(*rows: Row, at_peak: float = 1.0, first: int = 10) -> list[str]:
    advice = Advice("adamw_torch", "set master_weights=24bit in optim_args")
    readings = [Reading(step, rows, at_peak=at_peak) for step in range(first, 3 * first, first)]
    return [sentence for reading in readings for sentence in advice(reading)]


def test_updates_that_vanish_are_said_once() -> None:
    (sentence,) = said(row(0.0, still=0.8))
    assert "80% of the updates of hidden vanish" in sentence
    assert "set master_weights=24bit in optim_args" in sentence
    for quiet in (row(0.0, still=0.4), row(0.0, still=0.8, rounds=False), row(0.0, still=0.8, role="norm")):
        assert not said(quiet)
    assert not said(row(0.0, still=0.8), at_peak=0.1)  # in warmup


def test_a_layer_that_explodes_is_named() -> None:
    layers = [row(0.001, layer=f"layer_{number:02}") for number in range(6)]
    (sentence,) = said(*layers, row(0.05, layer="layer_06"))
    assert sentence.startswith("adamw_torch: layer 06 explodes: step 10 has moved its matrices by 0.05")
    assert not said(*layers, row(0.005, layer="layer_06"))
    assert not said(*layers[:2], row(0.05, layer="layer_06"))
    assert not said(*layers, row(0.05, layer="after_layers"))


def test_a_rate_far_too_high_is_said_with_one_to_try() -> None:
    (sentence,) = said(row(2.0))
    assert "step 10 has moved hidden by 2 times the size it began with at lr=0.001" in sentence
    assert "try lr=1e-05" in sentence
    assert not said(row(0.5))
    assert not said(row(2.0), first=1)  # the first steps of a model


SOUND = {
    "adamw_torch": 1e-3,
    "muon": 0.02,
    "lion": 1e-4,
    "sgd": 0.1,
    "adafactor": 1e-3,
    "prodigy": 1.0,
    "apollo_mini": 1e-2,
}


VANISH = ("lion", "sgd", "prodigy")
"""In bf16 their updates do, at these rates."""


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in SOUND),
        *(pytest.param(name, torch.bfloat16, marks=pytest.mark.slow) for name in SOUND if name not in VANISH),
    ],
)
def test_nothing_is_said_of_a_sound_run(name: str, dtype: torch.dtype) -> None:
    model = llama().to(dtype)
    targets = "all-linear" if anyoptim.optimizer_info(name).traits.names_targets else None
    optimizer = monitored(name, model, lr=SOUND[name], optim_target_modules=targets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            plain_steps(model, optimizer, 5)
            optimizer.monitor.read()


def warned(optimizer: Any, model: nn.Module, count: int = 20) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(count // 5):
            plain_steps(model, optimizer, 5)
            optimizer.monitor.read()
    return "\n".join(str(each.message) for each in caught)


def test_runs_that_go_wrong_are_told() -> None:
    model = llama().bfloat16()
    assert "vanish" in warned(monitored("adamw_torch", model, lr=1e-7), model, 5)
    model = llama()
    assert "try lr=0.00" in warned(monitored("adamw_torch", model, lr=0.3), model, 10)
    config = copy.deepcopy(TINY_LLAMA)
    config.num_hidden_layers = 5
    model = LlamaForCausalLM(config)
    optimizer = monitored("adamw_torch", model, r"layers\.3\.@lr_ratio=50", lr=1e-3)
    assert "layer 03 explodes" in warned(optimizer, model, 5)
