"""Packed weights and state in the real Trainer: checkpoints, resuming, and the model that is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from halves import assert_same, plain_state
from safetensors.torch import load_file
from toys import arguments, needs_of, train, weights
from transformers import Trainer, TrainerCallback

import anyoptim
from anyoptim.building.records import built
from anyoptim.engines.composite import inside
from anyoptim.engines.packing import join
from anyoptim.engines.stored import Stored
from anyoptim.testing.subject import tiny_model

pytestmark = [pytest.mark.trainer, pytest.mark.usefixtures("enabled")]

PACKED = "master_weights=24bit,state_dtype=int8"
NAMES = ["adamw_torch", "muon", "schedule_free_adamw"]
STEPS, SAVED = 6, 3


def fields_of(name: str, args: str = PACKED, **changed: Any) -> dict[str, Any]:
    needs = needs_of(name)
    return {
        **needs,
        "optim": name,
        "optim_args": ",".join(filter(None, [needs["optim_args"], args])),
        "weight_decay": 0.1,
        "gradient_accumulation_steps": 2,
        "max_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": SAVED,
        **changed,
    }


def run(folder: Path, fields: dict[str, Any], resume: bool = False, seed: int = 0, **given: Any) -> Trainer:
    cls = Resumed if resume else Trainer
    return train(tiny_model(seed, torch.bfloat16), arguments(folder, **fields), cls, **given)


class Resumed(Trainer):
    """Goes on from the checkpoint in the middle."""

    def train(self, *_: Any, **__: Any) -> Any:
        return super().train(resume_from_checkpoint=str(Path(self.args.output_dir, f"checkpoint-{SAVED}")))


class Seen(TrainerCallback):
    """The training weights with what lies behind them, after each step."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **_: Any) -> None:
        found = {key: value.clone() for key, value in anyoptim.fp32_weights(model, optimizer).items()}
        self.after[state.global_step] = found


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_to_the_last_bit(name: str, tmp_path: Path) -> None:
    straight, resumed = Seen(), Seen()
    first = run(tmp_path, fields_of(name), callbacks=[straight])
    assert [*inside(built(first.optimizer), Stored)]
    second = run(tmp_path, fields_of(name), resume=True, seed=1, callbacks=[resumed])
    assert resumed.after.keys() == {*range(SAVED + 1, STEPS + 1)}
    for step, found in resumed.after.items():
        assert_same(found, straight.after[step])
    assert_same(weights(first.model), weights(second.model))
    assert_same(plain_state(built(first.optimizer)), plain_state(built(second.optimizer)))


def test_a_checkpoint_of_two_sets_of_weights_has_the_average(tmp_path: Path) -> None:
    """Schedule-free: the model is the average, the state dict the training weights, with what lies behind them."""
    seen = Seen()
    trainer = run(tmp_path, fields_of("schedule_free_adamw"), callbacks=[seen])
    folder = tmp_path / f"checkpoint-{SAVED}"
    state = torch.load(folder / "optimizer.pt", weights_only=True)["state"]
    model = load_file(folder / "model.safetensors")
    names = {each: name for name, each in trainer.model.named_parameters()}
    every = [each for group in trainer.optimizer.param_groups for each in group["params"]]
    for at, parameter in enumerate(every):
        name = names[parameter]
        joined = seen.after[SAVED][name]
        low = state[at]["training_weight"]
        assert low.dtype == torch.bfloat16
        assert torch.equal(join(low, state[at]["weight:24bit"]), joined)
    assert any(not torch.equal(model[names[each]], seen.after[SAVED][names[each]].bfloat16()) for each in every)
    assert all(value.dtype == torch.bfloat16 for value in model.values())


@pytest.mark.parametrize("name", ["adamw_torch", "muon"])
def test_the_model_is_saved_in_fp32_where_that_is_asked_for(name: str, tmp_path: Path) -> None:
    trainer = run(tmp_path, fields_of(name, f"{PACKED},save_fp32=true"))
    before = weights(trainer.model)
    trainer.save_model(str(tmp_path / "wide"))
    found = load_file(tmp_path / "wide" / "model.safetensors")
    expected = anyoptim.fp32_weights(trainer.model, trainer.optimizer)
    assert_same(found, expected)
    assert all(value.dtype == torch.float32 for value in found.values())
    assert any(not torch.equal(value, value.bfloat16().float()) for value in found.values())
    assert_same(weights(trainer.model), before)
    checkpoint = load_file(tmp_path / f"checkpoint-{STEPS}" / "model.safetensors")
    assert_same(checkpoint, before)
    other = run(tmp_path / "low", fields_of(name))
    other.save_model(str(tmp_path / "low" / "saved"))
    assert_same(load_file(tmp_path / "low" / "saved" / "model.safetensors"), weights(other.model))


def test_a_rate_that_rounding_swallows_moves_packed_weights(tmp_path: Path) -> None:
    """They go as far as weights in fp32; plain ones in bf16 do not move."""
    far = {}
    for args, dtype in ((PACKED, torch.bfloat16), ("", torch.bfloat16), ("", torch.float32)):
        model = tiny_model(dtype=dtype)
        start = {key: value.clone() for key, value in model.state_dict().items()}
        fields = fields_of("adamw_torch", args, learning_rate=1e-6, save_strategy="no", weight_decay=0.0)
        trainer = train(model, arguments(tmp_path, **fields))
        after = anyoptim.fp32_weights(trainer.model, trainer.optimizer)
        far[args, dtype] = sum(float((after[key].float() - start[key].float()).norm()) for key in start)
    assert far[PACKED, torch.bfloat16] == pytest.approx(far["", torch.float32], rel=0.1)
    assert far["", torch.bfloat16] < far["", torch.float32] / 2
