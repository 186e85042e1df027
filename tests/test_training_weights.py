"""Schedule-free: whatever saves writes the average, training goes on from the training weights to the last bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Subset
from toys import NAMES, arguments, data, inner, llama, needs_of, plain_steps, same_weights, train, weights
from transformers import Trainer, TrainerCallback

import anyoptim

SCHEDULE_FREE = [name for name in NAMES if anyoptim.optimizer_info(name).traits.schedule_free]
Weights = dict[str, torch.Tensor]


def averaged(name: str, steps: int, folder: Path) -> Weights:
    """The average after some steps, by the optimizer's own eval(), of a run that does nothing else."""
    finished = run(name, folder / "average", total=steps)
    finished.optimizer.eval()
    return weights(finished.model)


def run(name: str, folder: Path, cls: type[Trainer] = Trainer, total: int = 12, **fields: Any) -> Trainer:
    # the rate of RAdam's first steps is 0: enough steps that weights and average differ
    kwargs = {key: fields.pop(key) for key in ("callbacks", "eval_dataset") if key in fields}
    return train(
        llama(), arguments(folder, optim=name, **{**needs_of(name), "max_steps": total, **fields}), cls, **kwargs
    )


def saved_in(folder: Path) -> Weights:
    return load_file(folder / "model.safetensors")


@pytest.fixture(autouse=True)
def _enabled(enabled: None) -> None:
    """These are about the Trainer under enable()."""


trainer = pytest.mark.trainer
each_name = pytest.mark.parametrize("name", SCHEDULE_FREE)


@trainer
@each_name
def test_checkpoints_hold_the_average_and_saving_changes_nothing(name: str, tmp_path: Path) -> None:
    never = run(name, tmp_path / "never")
    often = run(name, tmp_path / "often", save_strategy="steps", save_steps=1)
    for step in (8, 12):
        assert same_weights(saved_in(tmp_path / "often" / f"checkpoint-{step}"), averaged(name, step, tmp_path))
    assert same_weights(weights(often.model), weights(never.model))


@trainer
@each_name
def test_the_average_is_not_what_it_trains(name: str, tmp_path: Path) -> None:
    """Else the tests here would show nothing."""
    finished = run(name, tmp_path)
    average = weights(finished.model)
    finished.optimizer.train()
    assert not same_weights(weights(finished.model), average)


@trainer
@each_name
def test_saving_after_training(name: str, tmp_path: Path) -> None:
    expected = averaged(name, 12, tmp_path)
    finished = run(name, tmp_path)
    finished.save_model(str(tmp_path / "model"))
    finished.save_model(str(tmp_path / "hub"), _internal_call=True)  # what push_to_hub uploads
    finished.model.save_pretrained(tmp_path / "own")
    for folder in ("model", "hub", "own"):
        assert same_weights(saved_in(tmp_path / folder), expected)


class OwnSaveModel(Trainer):
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self.model.save_pretrained(output_dir or self.args.output_dir)


class OwnSave(Trainer):
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.model.save_pretrained(output_dir or self.args.output_dir)


class OwnSaveCheckpoint(Trainer):
    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.model.save_pretrained(Path(self.args.output_dir, f"checkpoint-{self.state.global_step}"))


class SavesToo(TrainerCallback):
    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        model.save_pretrained(Path(args.output_dir, "by-callback"))


@trainer
@pytest.mark.parametrize("subclass", [OwnSaveModel, OwnSave, OwnSaveCheckpoint])
@each_name
def test_a_subclass_and_a_callback_that_save_themselves(name: str, subclass: type[Trainer], tmp_path: Path) -> None:
    fields = {"save_strategy": "steps", "save_steps": 8, "callbacks": [SavesToo()]}
    finished = run(name, tmp_path, subclass, total=9, **fields)
    expected = averaged(name, 8, tmp_path)
    assert same_weights(saved_in(tmp_path / "checkpoint-8"), expected)
    assert same_weights(saved_in(tmp_path / "by-callback"), averaged(name, 9, tmp_path))
    assert same_weights(weights(finished.model), averaged(name, 9, tmp_path))


class Interrupts(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 8:
            raise KeyboardInterrupt


@trainer
@each_name
def test_an_interrupt_leaves_the_average(name: str, tmp_path: Path) -> None:
    args = arguments(tmp_path, optim=name, **{**needs_of(name), "max_steps": 12})
    stopped = Trainer(llama(), args, train_dataset=data(), callbacks=[Interrupts()])
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    stopped.save_model(str(tmp_path / "saved"))
    assert same_weights(saved_in(tmp_path / "saved"), averaged(name, 8, tmp_path))


class Stops(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == 10


@trainer
@each_name
def test_the_best_model_is_loaded_as_it_was_saved(name: str, tmp_path: Path) -> None:
    fields = {
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": True,  # so that the best is not the last
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_strategy": "steps",
        "save_steps": 4,
        "eval_dataset": Subset(data(), range(8)),
        "callbacks": [Stops()],  # newer versions evaluate at the last step, too
    }
    finished = run(name, tmp_path, total=14, **fields)
    best = saved_in(Path(str(finished.state.best_model_checkpoint)))
    assert same_weights(weights(finished.model), best)
    finished.evaluate()
    assert same_weights(weights(finished.model), best)


@trainer
@pytest.mark.parametrize("evaluates", [False, True])
@each_name
def test_resume_is_exact(name: str, evaluates: bool, tmp_path: Path) -> None:
    """Also from a checkpoint that was saved right after an evaluation, in which the optimizer was in its eval mode."""
    evaluation = (
        {"eval_strategy": "steps", "eval_steps": 8, "eval_dataset": Subset(data(), range(8))} if evaluates else {}
    )
    straight = run(name, tmp_path / "straight", **evaluation)
    run(name, tmp_path, save_strategy="steps", save_steps=8, **evaluation)
    evaluation.pop("eval_dataset", None)
    args = arguments(tmp_path, optim=name, **{**needs_of(name), "max_steps": 12, **evaluation})
    resumed = Trainer(llama(seed=1), args, train_dataset=data(), eval_dataset=Subset(data(), range(8)))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert same_weights(weights(resumed.model), weights(straight.model))


@each_name
def test_a_state_dict_brings_the_training_weights_back(name: str) -> None:
    model, other = llama(), llama(seed=1)
    optimizer, second = (anyoptim.get_optimizer(name, each, needs_of(name)) for each in (model, other))
    plain_steps(model, optimizer, count=8)  # ends in eval mode
    optimizer.train()
    state = copy.deepcopy(optimizer.state_dict())
    second.load_state_dict(state)
    assert same_weights(weights(other), weights(model))
    for each, held in ((model, optimizer), (other, second)):
        plain_steps(each, held, count=3)
        assert all("training_weight" not in state for state in held.state.values())  # a copy for the file only
    assert same_weights(weights(other), weights(model))


@trainer
@each_name
def test_two_trainings_in_a_row(name: str, tmp_path: Path) -> None:
    finished = run(name, tmp_path, total=4)
    finished.train()
    assert inner(finished.optimizer).param_groups[0]["train_mode"] is False


@trainer
@pytest.mark.parametrize("name", ["schedule_free_radamw", "schedule_free_adamw", "schedule_free_sgd"])
def test_transformers_alone_goes_on_from_our_checkpoint(name: str, tmp_path: Path) -> None:
    """It knows these names: the model file holds the average, and the state says so."""
    fields = {"save_strategy": "steps", "save_steps": 8, "optim_args": None}
    ours = run(name, tmp_path, **fields)
    anyoptim.disable()  # for good: the fixture's scope ends with it
    model = llama()
    needs = {**needs_of(name), "max_steps": 12, **fields}
    theirs = Trainer(model, arguments(tmp_path, optim=name.replace("radamw", "radam"), **needs), train_dataset=data())
    theirs.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    theirs.optimizer.eval()
    assert type(inner(theirs.optimizer)).__module__.startswith("schedulefree")
    found, expected = weights(model), weights(ours.model)
    assert max(float((found[key] - value).abs().max()) for key, value in expected.items()) < 1e-5


IN_A_LOOP = [
    *("schedule_free_adamw", "schedule_free_sgd", "schedule_free(adamw_torch)", "muon+schedule_free_adamw"),
    *("heavyball/sfadamw", "pytorch_optimizer/schedulefreeadamw"),
]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", IN_A_LOOP)
def test_the_average_is_never_trained(name: str, fused: bool) -> None:
    """A loop that forgot train(), or did not call it again after eval()."""
    if fused and not any(each.name == "fused_backward" for each in anyoptim.optimizer_info(name).hyperparameters):
        return
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    optimizer: Any = anyoptim.get_optimizer(name, model, lr=0.1, **({"fused_backward": True} if fused else {}))
    optimizer.train()
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.eval()
    before = weights(model)
    with pytest.raises(anyoptim.UnsupportedError, match=r"call optimizer\.train\(\) before training"):
        model(torch.ones(2, 8)).sum().backward()
        optimizer.step()
    assert same_weights(weights(model), before)
