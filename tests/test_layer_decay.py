"""Rates that fall layer by layer: which layers a model has, and the rates that come out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures import MORE, NAMES, architecture
from special_layers import LAYERS
from torch import nn
from toys import (
    SIZES,
    arguments,
    llama,
    train,
    values_by_parameter,
)
from transformers import TrainerCallback

import anyoptim
from anyoptim.names.role import Role
from anyoptim.routing.layers import layer_numbers
from anyoptim.routing.structure import read_structure


class Rates(TrainerCallback):
    """Writes down the learning rate of every parameter at every step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        found = values_by_parameter(kwargs["optimizer"], kwargs["model"])
        self.seen.append({name: each["lr"] for name, each in found.items()})


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("name", ["adamw_torch", "muon"])
def test_layer_decay_under_the_cosine_schedule(name: str, tmp_path: Path) -> None:
    """Every scheduler of transformers scales these rates, as they are the groups' own."""
    steps, warmup, rate, decay = 8, 2, 1e-3, 0.9
    rates = Rates()
    fields = {"lr_scheduler_type": "cosine", "warmup_steps": warmup, "learning_rate": rate, "max_steps": steps}
    args = arguments(tmp_path, optim=name, optim_args=f"layer_decay={decay}", **fields)
    train(llama(), args, callbacks=[rates])
    # embeddings, two layers, then the last norm and the head
    powers = {"embed_tokens": 3, "layers.0.": 2, "layers.1.": 1, "model.norm": 0, "lm_head": 0}
    assert len(rates.seen) == steps
    for step, seen in enumerate(rates.seen):
        progress = (step - warmup) / (steps - warmup)
        factor = step / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * progress))
        for parameter, value in seen.items():
            power = next(power for part, power in powers.items() if part in parameter)
            assert value == pytest.approx(rate * decay**power * factor, rel=1e-12, abs=1e-20), (step, parameter)


def test_layer_numbers_of_two_stacks_and_of_other_models() -> None:
    def numbers(model: nn.Module) -> tuple[dict[str, int], int]:
        return layer_numbers(model, read_structure(model).places)

    t5, last = numbers(architecture("T5ForConditionalGeneration"))
    assert last == 5
    assert t5["shared.weight"] == 0
    assert t5["encoder.block.1.layer.0.SelfAttention.q.weight"] == 2
    assert t5["decoder.block.0.layer.0.SelfAttention.q.weight"] == 3
    assert t5["decoder.final_layer_norm.weight"] == 5
    opt, last = numbers(architecture("OPTForCausalLM"))
    assert opt["model.decoder.final_layer_norm.weight"] == last == 3  # though it stands before the layers
    vit, last = numbers(architecture("ViTForImageClassification"))
    assert {vit[name] for name in vit if "embeddings" in name} == {0}
    assert (vit["classifier.weight"], last) == (3, 3)
    headed = nn.ModuleDict({"lm_head": nn.Linear(2, 3), "layers": nn.ModuleList(nn.Linear(2, 2) for _ in range(2))})
    structure = read_structure(headed)
    structure.places[0].role = Role.OUTPUT_HEAD  # registered first, used last
    assert layer_numbers(headed, structure.places)[0]["lm_head.weight"] == 3
    mlp, last = numbers(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1)))
    assert (mlp["0.weight"], mlp["2.weight"], last) == (1, 3, 4)
    assert numbers(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.LayerNorm(2))) == ({}, 0)


@pytest.mark.skipif(int(transformers.__version__[0]) < 5, reason="the table is for the newest transformers")
@pytest.mark.parametrize("name", [*NAMES, *MORE])
def test_the_blocks_of_each_architecture_are_its_layers(name: str) -> None:
    model = architecture(name)
    found, last = layer_numbers(model, read_structure(model).places)
    stacks, after = LAYERS[name]
    layers = [f"{stack}.{item}." for stack in stacks for item in range(len(model.get_submodule(stack)))]
    assert last == (len(layers) + 1 if stacks else 0)
    ends = [1 + len(model.get_submodule(stack)) for stack in stacks[:-1]]  # of an encoder, or the start of a second one
    for parameter, number in found.items():
        own = [at for at, layer in enumerate(layers, start=1) if parameter.startswith(layer)]
        if own:
            assert number == own[0], parameter
        elif parameter.startswith(tuple(f"{module}." for module in after)):
            assert number == last, parameter
        else:
            assert number == 0 or number in ends, parameter


@pytest.mark.skipif(int(transformers.__version__[0]) < 5, reason="its config differs")
def test_layers_of_a_model_with_auxiliary_lists() -> None:
    """Gemma3n has an embedding for each layer, registered after the layers, and lists of projections beside them."""
    config = transformers.Gemma3nTextConfig(
        **SIZES | {"num_hidden_layers": 4}, vocab_size_per_layer_input=256, hidden_size_per_layer_input=8,
        num_key_value_heads=2, head_dim=16, num_kv_shared_layers=0, layer_types=None, activation_sparsity_pattern=None,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.Gemma3nForCausalLM(config)
    planned = anyoptim.plan("adamw_torch", model, lr=1.0, layer_decay=0.5)
    names = {parameter: name for name, parameter in model.named_parameters()}
    rates = {names[each]: group.get("lr", 1.0) for group in planned.groups for each in group["params"]}
    assert rates["model.embed_tokens.weight"] == rates["model.embed_tokens_per_layer.weight"] == 0.5**5
    assert rates["model.layers.0.mlp.up_proj.weight"] == 0.5**4
    assert rates["model.layers.3.mlp.up_proj.weight"] == 0.5
    assert rates["model.norm.weight"] == 1.0
