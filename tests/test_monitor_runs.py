"""``monitor=true`` in the Trainer's logs, and on several ranks: the numbers of one process."""

from __future__ import annotations

import contextlib
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from meshes import MESHES, net, one_step, optimizer
from ranks import Cases, found
from torch.nn.parallel import DistributedDataParallel
from toys import arguments, data, inner, llama, same_weights, train, weights
from transformers import Trainer

import anyoptim

MEASURES = {"update_rms", "relative_update", "zero_updates", "grad_norm", "lr"}
NAMES = {"embedding", "hidden_matrix", "norm", "output_head", "before_layers", "layer_00", "layer_01", "after_layers"}


def run(folder: Path, args: str, name: str = "adamw_torch", **fields: Any) -> Trainer:
    return train(llama(), arguments(folder, optim=name, optim_args=args, max_grad_norm=0.0, **fields))


def measured(trainer: Trainer) -> dict[int, dict[str, float]]:
    """What the logs hold of it, by the step."""
    found = {
        row["step"]: {key: value for key, value in row.items() if key.startswith("monitor/")}
        for row in trainer.state.log_history
    }
    return {step: numbers for step, numbers in found.items() if numbers}


def test_a_loop_of_accelerate_counts_whole_steps() -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = llama()
    given = anyoptim.get_optimizer("adamw_torch", model, lr=1e-3, optim_args="monitor=true")
    model, wrapped = accelerator.prepare(model, given)
    monitor = wrapped.optimizer.monitor
    ids = torch.arange(16).reshape(1, 16)
    steps = []
    for _ in range(24):
        with accelerator.accumulate(model):
            accelerator.backward(model(input_ids=ids, labels=ids).loss)
            wrapped.step()
            wrapped.zero_grad()
        found = monitor.reading()
        steps.append(found.step if found else 0)
    # the first whole step, and then every tenth
    assert steps == [0] + [1] * 18 + [10] * 5
    assert {key.split("/")[1] for key in monitor.read()} == MEASURES


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("more", ["", "fused_backward=true", "master_weights=24bit,state_dtype=int8"])
def test_every_log_has_the_numbers_of_its_step(tmp_path: Path, more: str) -> None:
    fields = {"max_steps": 7, "logging_steps": 3, "gradient_accumulation_steps": 2, "logging_first_step": True}
    trainer = run(tmp_path / "on", ",".join(filter(None, ["monitor=true", more])), **fields)
    plain = run(tmp_path / "off", more, **fields)
    assert same_weights(weights(trainer.model), weights(plain.model))
    logs = measured(trainer)
    assert list(logs) == [1, 3, 6]
    assert not measured(plain)
    assert logs[6].keys() == {f"monitor/{measure}/{name}" for measure in MEASURES for name in NAMES}
    rates = {row["step"]: row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row}
    assert {step: row["monitor/lr/hidden_matrix"] for step, row in logs.items()} == pytest.approx(rates)
    assert inner(trainer.optimizer).monitor.reading().step == 6
    json.dumps(trainer.state.log_history, allow_nan=False)


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
def test_a_resumed_run_measures_the_steps_that_it_logs(tmp_path: Path) -> None:
    fields = {
        "optim": "muon",
        "optim_args": "monitor=true",
        "logging_steps": 2,
        "save_strategy": "steps",
        "save_steps": 3,
    }
    straight = measured(train(llama(), arguments(tmp_path / "one", max_steps=6, **fields)))
    train(llama(), arguments(tmp_path / "two", max_steps=6, **fields))
    trainer = Trainer(llama(1), arguments(tmp_path / "two", max_steps=6, **fields), train_dataset=data())
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train(resume_from_checkpoint=str(tmp_path / "two" / "checkpoint-3"))
    assert measured(trainer) == straight
    state = torch.load(tmp_path / "two" / "checkpoint-3" / "optimizer.pt", weights_only=True)
    assert "monitor" not in str(state)


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_the_console_stays_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str], disable_tqdm: bool) -> None:
    args = arguments(tmp_path, optim="adamw_torch", optim_args="monitor=true", max_steps=1, disable_tqdm=disable_tqdm)
    Trainer(llama(), args, train_dataset=data()).train()
    printed = "".join(capsys.readouterr())
    assert "'loss'" in printed and "monitor/" not in printed


# ---------------------------------------------------------------- ranks


def equal_to_one(name: str, mesh: str, args: str = "", dtype: torch.dtype = torch.float64) -> None:
    """Asked by one rank alone: no other one has to come."""
    args = ",".join(filter(None, ["monitor=true", args]))
    alone = net(32, 48, dtype=dtype)
    model = MESHES[mesh](net(32, 48, dtype=dtype))
    split, one = optimizer(name, model, optim_args=args), optimizer(name, alone, optim_args=args)
    split.monitor.every = one.monitor.every = 3
    for step in range(3):
        one_step(model, split, step)
        one_step(alone, one, step)
    if torch.distributed.get_rank() == 0:
        assert split.monitor.read() == pytest.approx(one.monitor.read(), rel=1e-4, abs=1e-9)
        assert split.monitor.reading().step == 3


def replicas_equal_one(args: str) -> None:
    """Each rank says the same, whoever owns what lies behind a weight."""
    args = f"monitor=true,{args}"
    alone, model = net(32, 48, dtype=torch.bfloat16), net(32, 48, dtype=torch.bfloat16)
    sharing = DistributedDataParallel(model)
    split, one = optimizer("adamw_torch", model, optim_args=args), optimizer("adamw_torch", alone, optim_args=args)
    split.monitor.every = one.monitor.every = 1
    for step in range(2):
        one_step(sharing, split, step)
        one_step(alone, one, step)
    assert split.monitor.read() == pytest.approx(one.monitor.read(), rel=1e-4)


CASES: Cases = {
    **{
        f"{name} {mesh}": partial(equal_to_one, name, mesh)
        for name in ("adamw_torch", "muon")
        for mesh in ("fsdp", "tp")
    },
    "fused": partial(equal_to_one, "adamw_torch", "fsdp", "fused_backward=true"),
    "fused muon": partial(equal_to_one, "muon", "fsdp", "fused_backward=true"),
    "packed": partial(equal_to_one, "adamw_torch", "fsdp", "master_weights=24bit", torch.bfloat16),
    "replicas": partial(replicas_equal_one, "master_weights=24bit"),
    "owned replicas": partial(replicas_equal_one, "master_weights=24bit,owned=true"),
}


@pytest.mark.parametrize("case", CASES)
def test_ranks_together_say_what_one_process_says(case: str, folder: Path) -> None:
    assert found(CASES, 2, folder / "monitor.json")[case] == ["", ""]
