"""A damaged checkpoint is one sentence: it never crashes, raises what is not ours, or trains on with other weights."""

from __future__ import annotations

import functools
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from damages import DAMAGES, MANIFEST
from runs import fields_of, run
from toys import arguments, data, llama, same_weights, train, weights
from transformers import Trainer

import anyoptim
from anyoptim.integrations.manifest import Manifests, write_manifest

pytestmark = [pytest.mark.trainer, pytest.mark.usefixtures("enabled")]

NAMES = {
    "apollo_mini": "an engine",
    "muon": "a hybrid",
    "lookahead(adamw_torch)": "a wrapper",
    "schedule_free_adamw": "two sets of weights",
    "adamw_torch_fused": "a fused kernel",
}
STEP, STEPS = 4, 6
FOLDERS: list[Path] = []


@functools.cache
def saved(name: str) -> Path:
    """A run with checkpoints of two steps."""
    folder = Path(tempfile.mkdtemp())
    FOLDERS.append(folder)
    run(folder, fields_of(name, max_steps=STEP, save_strategy="steps", save_steps=STEP // 2))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _no_run_is_left() -> Any:
    yield
    for folder in FOLDERS:
        shutil.rmtree(folder, ignore_errors=True)
    saved.cache_clear()


@functools.cache
def trainer_of(name: str) -> Trainer:
    """One for all resumes that are refused, which leave it as it was."""
    return Trainer(llama(seed=1), arguments(saved(name), **fields_of(name, max_steps=STEPS)), train_dataset=data())


def resumed(name: str, checkpoint: Path | bool, folder: Path) -> dict[str, torch.Tensor]:
    trainer = Trainer(llama(seed=1), arguments(folder, **fields_of(name, max_steps=STEPS)), train_dataset=data())
    trainer.train(resume_from_checkpoint=str(checkpoint) if isinstance(checkpoint, Path) else checkpoint)
    return weights(trainer.model)


@functools.cache
def expected(name: str) -> dict[str, torch.Tensor]:
    return resumed(name, saved(name) / f"checkpoint-{STEP}", saved(name))


def damaged(name: str, damage: str, folder: Path) -> Path:
    checkpoint = folder / f"checkpoint-{STEP}"
    shutil.copytree(saved(name) / checkpoint.name, checkpoint)
    DAMAGES[damage](checkpoint, saved(name) / f"checkpoint-{STEP // 2}")
    return checkpoint


def test_they_are_many() -> None:
    assert len(NAMES) * len(DAMAGES) >= 320


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_checkpoint_is_one_sentence(name: str, damage: str, tmp_path: Path) -> None:
    checkpoint = damaged(name, damage, tmp_path)
    with pytest.raises(anyoptim.CheckpointError) as refused:
        trainer_of(name).train(resume_from_checkpoint=str(checkpoint))
    sentence = str(refused.value)
    assert re.match(f"Can't find a valid checkpoint at {checkpoint}: it", sentence)
    assert not re.search(r"Errno|weights_only|Traceback|\n", sentence)
    assert "delete its anyoptim_manifest.json" in sentence or "Start without resuming" in sentence


@pytest.mark.parametrize("name", NAMES)
def test_the_last_whole_checkpoint_goes_on(name: str, tmp_path: Path) -> None:
    other = f"checkpoint-{STEP // 2}"
    shutil.copytree(saved(name) / other, tmp_path / other)
    damaged(name, "other weights", tmp_path)
    with pytest.warns(UserWarning, match=rf"{other}, the last whole checkpoint: .*its model.safetensors is not what"):
        found = resumed(name, True, tmp_path)
    assert same_weights(found, resumed(name, saved(name) / other, tmp_path / "undamaged"))


def test_a_save_begins_without_the_manifest_before(tmp_path: Path) -> None:
    """Else what a killed save leaves, whole but for its manifest, would be refused."""
    (tmp_path / "model.safetensors").touch()
    write_manifest(tmp_path, STEP)
    assert (tmp_path / MANIFEST).exists()
    Manifests().begin(tmp_path)
    assert not (tmp_path / MANIFEST).exists()


def test_what_was_changed_on_purpose_goes_on(tmp_path: Path) -> None:
    """The mend of the sentence, typed."""
    checkpoint = damaged("muon", "other weights", tmp_path)
    (checkpoint / MANIFEST).unlink()
    assert not same_weights(resumed("muon", checkpoint, tmp_path), expected("muon"))


@pytest.mark.slow
@pytest.mark.parametrize("damage", [each for each in DAMAGES if MANIFEST not in each])
@pytest.mark.parametrize("name", NAMES)
def test_without_a_manifest_nothing_crashes_either(name: str, damage: str, tmp_path: Path) -> None:
    """What nobody can see goes on: a changed number is a number."""
    checkpoint = damaged(name, damage, tmp_path)
    (checkpoint / MANIFEST).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            resumed(name, checkpoint, tmp_path)
        except anyoptim.CheckpointError as refused:
            assert not re.search(r"Errno|weights_only|Traceback|\n", str(refused))
        except OSError as error:
            assert "no weights" in damage, error  # transformers' own sentence


@pytest.mark.parametrize("name", NAMES)
def test_a_strangers_checkpoint_goes_on(name: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / f"checkpoint-{STEP}"
    shutil.copytree(saved(name) / checkpoint.name, checkpoint)
    (checkpoint / MANIFEST).unlink()
    assert same_weights(resumed(name, checkpoint, tmp_path), expected(name))


def test_a_finished_run_trains_nothing(tmp_path: Path) -> None:
    name = "schedule_free_adamw"
    shutil.copytree(saved(name), tmp_path, dirs_exist_ok=True)
    trainer = Trainer(llama(seed=1), arguments(tmp_path, **fields_of(name, max_steps=STEP)), train_dataset=data())
    with pytest.warns(UserWarning, match=r"Nothing is trained: .*checkpoint-4 has all of 4 steps. Raise max_steps"):
        trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == STEP
    finished = train(llama(), arguments(tmp_path / "straight", **fields_of(name, max_steps=STEP)))
    assert same_weights(weights(trainer.model), weights(finished.model))


def test_a_run_finished_by_epochs_trains_nothing(tmp_path: Path) -> None:
    fields = {**fields_of("muon", max_steps=-1, num_train_epochs=1), "gradient_accumulation_steps": 1}
    few = torch.utils.data.Subset(data(), range(12))
    before = train(llama(), arguments(tmp_path, **{**fields, "save_strategy": "epoch"}), train_dataset=few)
    trainer = Trainer(llama(seed=1), arguments(tmp_path, **fields), train_dataset=few)
    with pytest.warns(UserWarning, match="Nothing is trained"):
        trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == before.state.global_step == 3
    assert same_weights(weights(trainer.model), weights(before.model))


def test_a_rate_that_has_no_effect_is_said_and_the_mend_works(tmp_path: Path) -> None:
    name = "adamw_torch_fused"
    fields = fields_of(name, max_steps=STEPS, learning_rate=5e-4)
    checkpoint = saved(name) / f"checkpoint-{STEP}"
    trainer = Trainer(llama(seed=1), arguments(tmp_path, **fields), train_dataset=data())
    with pytest.warns(UserWarning, match=r"lr=0.0005 has no effect: .*lr=0.003, which goes on. For another learning"):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    new = Trainer(type(llama()).from_pretrained(checkpoint), arguments(tmp_path, **fields), train_dataset=data())
    new.train()
    assert max(row["learning_rate"] for row in new.state.log_history if "loss" in row) == pytest.approx(5e-4)
