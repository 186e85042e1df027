"""Where transformers builds an optimizer correctly, enabling anyoptim changes no bit of the result."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from toys import MODELS, arguments, inner, losses, needs_of, same_weights, train, weights

import anyoptim

NAMES = [
    "adamw_torch",
    "adamw_torch_fused",
    "adafactor",
    "sgd",
    "adagrad",
    "rmsprop",
    "schedule_free_adamw",
    "schedule_free_radam",
    "schedule_free_sgd",
    "stable_adamw",
]


@pytest.mark.trainer
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_bit_equal_after_20_steps(
    name: str, architecture: str, weight_decay: float, tmp_path: Path
) -> None:
    results = []
    for context in (contextlib.nullcontext, anyoptim.enable):
        model = MODELS[architecture]()
        fields = {**needs_of(name), "weight_decay": weight_decay, "warmup_steps": 5}
        with context():
            trainer = train(model, arguments(tmp_path, optim=name, **fields))
        if hasattr(inner(trainer.optimizer), "eval"):
            trainer.optimizer.eval()  # theirs leaves the training weights in the model; see differences.md
        results.append((trainer, weights(model)))
    (theirs, their_weights), (ours, our_weights) = results
    assert type(inner(ours.optimizer)) is type(inner(theirs.optimizer))
    assert same_weights(our_weights, their_weights)
    assert not same_weights(our_weights, weights(MODELS[architecture]()))
    assert settings_of(inner(ours.optimizer)) == settings_of(inner(theirs.optimizer))


@pytest.mark.trainer
@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("name", ["apollo_adamw", "galore_adamw", "galore_adafactor", "grokadamw", "lomo"])
def test_weights_are_bit_equal_where_transformers_drops_nothing(name: str, architecture: str, tmp_path: Path) -> None:
    """No weight decay, and for APOLLO the eps that its constructor has anyway: then theirs is right as well."""
    fields = {**needs_of(name), "adam_epsilon": 1e-6 if name == "apollo_adamw" else 1e-8}
    own = fields.pop("optim_args")
    upstream = ",".join(filter(None, (own, "implementation=upstream")))
    results = []
    for context, text in ((contextlib.nullcontext, own), (anyoptim.enable, upstream), (anyoptim.enable, own)):
        model = MODELS[architecture]()
        with context():
            trainer = train(model, arguments(tmp_path, optim=name, optim_args=text, **fields))
        results.append((weights(model), losses(trainer)))
    (theirs, their_losses), (ours, _), (_, native_losses) = results
    assert same_weights(theirs, ours)
    # a gradient that is zero but for rounding has any direction in Adam's eyes, so weights may differ there
    assert native_losses == pytest.approx(their_losses, rel=1e-3)


def settings_of(optimizer: torch.optim.Optimizer) -> list[dict[str, object]]:
    return [
        {key: value for key, value in group.items() if key != "params"} | {"tensors": len(group["params"])}
        for group in optimizer.param_groups
    ]
