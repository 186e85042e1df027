"""A run that was stopped, killed or starved of disk goes on as if nothing had happened, or says why it cannot."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
import warnings
from dataclasses import fields as fields_of_dataclass
from pathlib import Path
from pickle import UnpicklingError
from traceback import StackSummary
from typing import Any

import pytest
import torch
from chosen import chosen, parameters
from processes import in_new_process, new_process
from runs import (
    FAILURES,
    STEPS,
    STOP,
    fail,
    fields_of,
    resume,
    resumes_as,
    run,
    until_terminated,
)
from torch.distributed.checkpoint.api import CheckpointException
from torch.optim.lr_scheduler import LambdaLR
from toys import NAMES, arguments, data, inner, llama, needs_of, same_weights, weights
from transformers import Trainer, TrainingArguments

import anyoptim
from anyoptim.integrations.manifest import NAME

pytestmark = [pytest.mark.trainer, pytest.mark.usefixtures("enabled")]

HAS_EMERGENCY = "enable_jit_checkpoint" in {each.name for each in fields_of_dataclass(TrainingArguments)}
A_NEW_PROCESS = parameters(NAMES, chosen(NAMES, others=0))
SAVING = {"save_strategy": "steps", "save_steps": STOP}


@pytest.mark.parametrize("name", A_NEW_PROCESS)
def test_a_new_process_goes_on_exactly(name: str, tmp_path: Path) -> None:
    """Against a run that never saved: saving changes nothing either."""
    fields = fields_of(name)
    straight = weights(run(tmp_path / "straight", fields).model)
    run(tmp_path, {**fields, **SAVING})
    shutil.rmtree(tmp_path / f"checkpoint-{STEPS}")
    assert in_new_process(resume, str(tmp_path), fields) == 0
    assert resumes_as(tmp_path, straight)
    assert not same_weights(straight, weights(llama()))


@pytest.mark.parametrize("name", NAMES)
def test_the_file_holds_the_whole_state(name: str, tmp_path: Path) -> None:
    trainer = run(tmp_path, {**fields_of(name, max_steps=STOP), **SAVING})
    saved = torch.load(tmp_path / f"checkpoint-{STOP}" / "optimizer.pt", weights_only=True)
    live = inner(trainer.optimizer).state_dict()
    written_by = saved["anyoptim"]
    implementation = anyoptim.optimizer_info(name).default
    assert (written_by["name"], written_by["implementation"]) == (name, implementation.name)
    assert written_by["package"] == implementation.package and written_by["version"][0].isdigit()
    assert saved["state"].keys() == live["state"].keys()
    for index, state in live["state"].items():
        for key, value in state.items():
            stored = saved["state"][index][key]
            assert torch.equal(stored, value) if isinstance(value, torch.Tensor) else stored == value


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("name", ["adamw_torch", "apollo_adamw_layerwise", "schedule_free_adamw"])
def test_after_a_failure_the_last_whole_checkpoint_goes_on(name: str, failure: str, tmp_path: Path) -> None:
    fields = {**fields_of(name), **SAVING}
    straight = weights(run(tmp_path / "straight", fields).model)
    code = in_new_process(fail, failure, str(tmp_path), fields)
    assert code == (1 if failure == "disk full" else -signal.SIGKILL)
    halved = tmp_path / f"checkpoint-{STEPS}"
    assert halved.exists() == (failure != "training")
    trainer = Trainer(llama(seed=1), arguments(tmp_path, **fields), train_dataset=data())
    if halved.exists():
        with pytest.raises(
            anyoptim.CheckpointError, match=rf"Can't find a valid checkpoint at.*checkpoint-{STOP}, the last whole one"
        ):
            trainer.train(resume_from_checkpoint=str(halved))
        with pytest.warns(UserWarning, match=rf"checkpoint-{STOP}, the last whole checkpoint: .*checkpoint-{STEPS}"):
            trainer.train(resume_from_checkpoint=True)
    else:
        trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == STEPS
    assert same_weights(weights(trainer.model), straight)


@pytest.mark.parametrize("kind", ["nothing", "a file", "an empty folder"])
def test_a_path_that_is_no_checkpoint_is_answered_in_transformers_words(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-7"
    if kind == "a file":
        path.write_text("")
    elif kind == "an empty folder":
        path.mkdir()
    trainer = Trainer(llama(), arguments(tmp_path, optim="sgd"), train_dataset=data())
    with pytest.raises(ValueError, match=f"^Can't find a valid checkpoint at {re.escape(str(path))}"):
        trainer.train(resume_from_checkpoint=str(path))


def test_no_checkpoint_is_whole(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    trainer = Trainer(llama(), arguments(tmp_path, **fields_of("adamw_torch")), train_dataset=data())
    with pytest.raises(
        anyoptim.CheckpointError, match=r"No valid checkpoint found in output directory \(.*no trainer_state.json"
    ):
        trainer.train(resume_from_checkpoint=True)
    assert trainer.optimizer is None


def test_a_save_over_an_old_checkpoint_is_not_whole_until_it_is_done(tmp_path: Path) -> None:
    class Interrupted(Trainer):
        def _save_rng_state(self, output_dir: str) -> None:
            raise KeyboardInterrupt

    fields = {**fields_of("adamw_torch", max_steps=STOP), **SAVING}
    run(tmp_path, fields)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, fields, Interrupted)
    trainer = Trainer(llama(), arguments(tmp_path, **fields), train_dataset=data())
    with pytest.raises(anyoptim.CheckpointError, match="Can't find a valid checkpoint at"):
        trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STOP}"))


@pytest.mark.skipif(not HAS_EMERGENCY, reason="this transformers has no emergency checkpoint")
@pytest.mark.parametrize("name", A_NEW_PROCESS)
def test_the_emergency_checkpoint_on_sigterm_goes_on_exactly(name: str, tmp_path: Path) -> None:
    fields = fields_of(name, max_steps=30, gradient_accumulation_steps=1)
    process = new_process(until_terminated, str(tmp_path), fields)
    while process.is_alive() and not (tmp_path / "step").exists():
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join()
    assert process.exitcode == 0
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert 0 < int(checkpoint.name.partition("-")[2]) < 30
    straight = weights(run(tmp_path / "straight", fields).model)
    trainer = Trainer(llama(seed=1), arguments(tmp_path, **fields), train_dataset=data())
    trainer.train(resume_from_checkpoint=True)
    assert same_weights(weights(trainer.model), straight)


def saved(folder: Path, name: str, **changed: Any) -> Path:
    run(folder, {**fields_of(name, max_steps=STOP, **changed), **SAVING})
    return folder / f"checkpoint-{STOP}"


def as_a_strangers(checkpoint: Path) -> Path:
    (checkpoint / NAME).unlink()
    return checkpoint


def resuming(checkpoint: Path, name: str, **changed: Any) -> Trainer:
    args = arguments(checkpoint.parent, **fields_of(name, **changed))
    trainer = Trainer(llama(seed=1), args, train_dataset=data())
    trainer.train(resume_from_checkpoint=str(checkpoint))
    return trainer


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_another_optimizer_is_refused_before_a_step(name: str, tmp_path: Path) -> None:
    other = NAMES[NAMES.index(name) - 1]
    checkpoint = saved(tmp_path, other)
    steps: list[int] = []

    class Counting(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            steps.append(1)
            return super().training_step(*args, **kwargs)

    trainer = Counting(llama(), arguments(tmp_path, **fields_of(name)), train_dataset=data())
    with pytest.raises(anyoptim.CheckpointError, match=rf"written by {other} \(.*not by {name} \(.*optim='{other}'"):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert not steps
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    optimizer = anyoptim.get_optimizer(name, llama(), needs_of(name))
    with pytest.raises(anyoptim.CheckpointError, match=rf"This state was written by {other} "):
        optimizer.load_state_dict(state)
    assert not optimizer.state or name == "adagrad"


def test_state_of_another_implementation_is_refused() -> None:
    state = anyoptim.get_optimizer("muon", llama(), implementation="upstream").state_dict()
    optimizer = anyoptim.get_optimizer("muon", llama())
    with pytest.raises(anyoptim.CheckpointError, match="resume with optim='muon' and implementation=upstream"):
        optimizer.load_state_dict(state)


def test_a_checkpoint_of_another_optimizer_that_does_not_say_so(tmp_path: Path) -> None:
    state = torch.optim.SGD(llama().parameters()).state_dict()
    optimizer = anyoptim.get_optimizer("adamw_torch", llama())
    with pytest.raises(anyoptim.CheckpointError, match=r"another optimizer than adamw_torch \(.*have no 'amsgrad'"):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("name", [name for name in NAMES if anyoptim.optimizer_info(name).default.package == "torch"])
def test_a_checkpoint_of_transformers_alone_goes_on(name: str, tmp_path: Path) -> None:
    with_ours = saved(tmp_path / "ours", name)
    anyoptim.disable()
    without = saved(tmp_path / "theirs", name)
    anyoptim.enable()
    assert same_weights(weights(resuming(without, name).model), weights(resuming(with_ours, name).model))


@pytest.mark.parametrize("name", NAMES)
def test_groups_of_another_model_are_refused(name: str, tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, name)
    model = llama()
    model.model.embed_tokens.requires_grad_(False)
    trainer = Trainer(model, arguments(tmp_path, **fields_of(name)), train_dataset=data())
    with pytest.raises(
        anyoptim.CheckpointError, match=r"groups of .* parameters, the optimizer of .* frozen parameters"
    ):
        trainer.train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt"])
def test_a_truncated_file_is_refused(file: str, tmp_path: Path) -> None:
    checkpoint = as_a_strangers(saved(tmp_path, "apollo_mini"))
    os.truncate(checkpoint / file, (checkpoint / file).stat().st_size // 2)
    with pytest.raises(anyoptim.CheckpointError, match=f"{checkpoint} is damaged: its {file} cannot be read"):
        resuming(checkpoint, "apollo_mini")


def test_state_that_does_not_fit_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = as_a_strangers(saved(tmp_path, "apollo_mini"))
    failures = {
        "apollo_mini, does not fit: Size mismatch. Resume with the model": ValueError("Size mismatch"),
        "does not fit: it holds objects of classes": UnpicklingError("weights_only: Unsupported global"),
    }
    for says, error in failures.items():
        for raised in (error, CheckpointException("load", {0: (error, StackSummary())})):

            def fail(*_: object, error: BaseException = raised, **__: object) -> None:
                raise error

            with monkeypatch.context() as patched, pytest.raises(anyoptim.CheckpointError, match=says) as refused:
                patched.setattr(LambdaLR, "load_state_dict", fail)
                resuming(checkpoint, "apollo_mini")
            assert "weights_only" not in str(refused.value)


def test_a_missing_scheduler_is_refused(tmp_path: Path) -> None:
    checkpoint = as_a_strangers(saved(tmp_path, "adamw_torch"))
    (checkpoint / "scheduler.pt").unlink()
    with pytest.raises(anyoptim.CheckpointError, match=r"no scheduler.pt, without which"):
        resuming(checkpoint, "adamw_torch")


def test_resuming_from_a_model_alone_is_said(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, "adamw_torch", save_only_model=True)
    with pytest.warns(UserWarning, match="holds no optimizer state"):
        resuming(checkpoint, "adamw_torch")


def test_hyperparameters_that_the_checkpoint_overrules_are_said(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, "apollo_adamw")
    with pytest.warns(UserWarning, match=r"rank=4 has no effect: .* written with rank=8"):
        resuming(checkpoint, "apollo_adamw", optim_args="rank=4")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*has no effect: the state")
        resuming(checkpoint, "apollo_adamw")


def test_a_record_survives_that_callbacks_are_restored(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, "apollo_mini")
    trainer = resuming(checkpoint, "apollo_mini", restore_callback_states_from_checkpoint=True)
    record = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]["OptimizerRecord"]
    assert record == trainer.state.stateful_callbacks["OptimizerRecord"]
