"""``kill -9`` at any moment of a run that saves at every step: it goes on as if it had never stopped."""

from __future__ import annotations

import functools
import random
import tempfile
import time
import warnings
from pathlib import Path

import pytest
import torch
from processes import new_process
from runs import STEPS, fields_of, run, until_killed
from toys import arguments, data, llama, same_weights, weights
from transformers import Trainer

pytestmark = [pytest.mark.trainer, pytest.mark.slow, pytest.mark.usefixtures("enabled")]

NAMES = ["adamw_torch_fused", "apollo_mini", "muon", "adalomo", "schedule_free_adamw", "lookahead(adamw_torch)"]
TIMES = 5
SAVING = {"save_strategy": "steps", "save_steps": 1}


@functools.cache
def straight(name: str) -> tuple[dict[str, torch.Tensor], float]:
    """The weights of a run that nobody stops, and the seconds that it takes."""
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), {**fields_of(name), **SAVING})  # whatever only the first one does
        started = time.monotonic()
        model = run(Path(folder), {**fields_of(name), **SAVING}).model
        return weights(model), time.monotonic() - started


def moments(name: str) -> list[float]:
    """Parts of a run's time: before the first save, in it, and after the last one."""
    chance = random.Random(name)
    return [chance.uniform(at / TIMES, (at + 1.2) / TIMES) for at in range(TIMES)]


@pytest.mark.parametrize("number", range(TIMES))
@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_goes_on_as_if_it_had_not_been(name: str, number: int, tmp_path: Path) -> None:
    expected, seconds = straight(name)
    fields = {**fields_of(name), **SAVING}
    process = new_process(until_killed, str(tmp_path), fields)
    while process.is_alive() and not (tmp_path / "started").exists():
        time.sleep(0.005)
    time.sleep(moments(name)[number] * seconds)
    process.kill()
    process.join()
    finished = (tmp_path / "finished").exists()
    before = {each: each.stat().st_mtime_ns for each in tmp_path.glob("checkpoint-*/*")}
    trainer = Trainer(llama(seed=1), arguments(tmp_path, **fields), train_dataset=data())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trainer.train(resume_from_checkpoint=True)
        except ValueError as refused:  # ours is one, with transformers' first words
            assert str(refused).startswith("No valid checkpoint found in output directory")
            assert not (tmp_path / "checkpoint-2").exists()  # no whole one was there
            return
    assert trainer.state.global_step == STEPS
    assert same_weights(weights(trainer.model), expected)
    if finished:
        assert before == {each: each.stat().st_mtime_ns for each in tmp_path.glob("checkpoint-*/*")}
