"""Logs, trainer_state.json and model cards name what ran, and the learning rate that was applied."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from toys import NAMES, arguments, data, inner, llama, needs_of, train
from transformers import Trainer, TrainerCallback
from transformers.utils import logging as transformers_logging

import anyoptim
from anyoptim.building.records import built, record_of
from anyoptim.memory.state import measured_state_bytes

pytestmark = [pytest.mark.trainer, pytest.mark.usefixtures("enabled")]
each_name = pytest.mark.parametrize("name", NAMES)


def fields_of(name: str) -> dict[str, Any]:
    constant = needs_of(name)["lr_scheduler_type"] == "constant"
    return {
        **needs_of(name),
        "optim": name,
        "weight_decay": 0.1,
        "lr_scheduler_type": "constant" if constant else "cosine",
    }


@each_name
def test_the_state_names_the_optimizer_and_its_hyperparameters(name: str, tmp_path: Path) -> None:
    args = arguments(tmp_path, max_steps=2, save_strategy="steps", save_steps=2, **fields_of(name))
    trainer = train(llama(), args)
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    record = state["stateful_callbacks"]["OptimizerRecord"]["attributes"]
    implementation = anyoptim.optimizer_info(name).default
    assert record["name"] == name
    assert record["implementation"] == implementation.name
    assert record["class"] == implementation.class_path
    hyperparameters = record["hyperparameters"]
    assert hyperparameters.keys() == {each.name for each in implementation.hyperparameters}
    assert hyperparameters["lr"] == args.learning_rate
    assert hyperparameters["weight_decay"] == 0.1
    for key, value in hyperparameters.items():
        held = [group[key] for group in trainer.optimizer.param_groups if key in group and key != "lr"]
        chosen_later = value is None  # a "whatever fits" that the first step makes up its mind on
        assert chosen_later or not held or value in [list(one) if isinstance(one, tuple) else one for one in held], key
    trainer.save_state()
    assert (tmp_path / "trainer_state.json").read_text().count(f'"{name}"') >= 1


@each_name
def test_the_model_card_names_what_ran(name: str, tmp_path: Path) -> None:
    trainer = train(llama(), arguments(tmp_path, max_steps=1, adam_beta1=0.8, **fields_of(name)))
    trainer.create_model_card(model_name="tiny")
    card = (tmp_path / "README.md").read_text()
    (line,) = [line for line in card.splitlines() if line.startswith("- optimizer: ")]
    record = record_of(trainer.optimizer)
    assert record is not None
    assert line.startswith(f"- optimizer: {record.writer} with ")
    assert f"lr={trainer.args.learning_rate}" in line
    assert "weight_decay=0.1" in line
    betas = trainer.optimizer.param_groups[0].get("betas")
    assert betas is None or f"betas={list(betas)}" in line


@each_name
def test_the_logged_rate_is_the_applied_one(name: str, tmp_path: Path) -> None:
    """Read in the middle of the step: what the group holds when the optimizer steps, or says that it applied."""
    applied: list[float] = []

    class Watch(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            group = optimizer.param_groups[0]
            applied.append(float(group.get("scheduled_lr", group["lr"])))

    takes_warmup = any(each.name == "warmup_steps" for each in anyoptim.optimizer_info(name).hyperparameters)
    args = arguments(tmp_path, max_steps=8, warmup_steps=3, **fields_of(name))
    trainer = train(llama(), args, callbacks=[Watch()])
    logged = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert logged == pytest.approx(applied, rel=1e-12)
    if takes_warmup:
        assert logged[:4] == pytest.approx([args.learning_rate * min(1, step / 3) for step in (1, 2, 3, 4)])
    assert len(set(logged)) > 1


@each_name
def test_one_line_at_the_start(name: str, tmp_path: Path) -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_info()
    library, handler = logging.getLogger("transformers"), Keep()
    library.addHandler(handler)
    try:
        args = arguments(tmp_path, max_steps=1, log_level="info", **fields_of(name))
        trainer = train(llama(), args)
    finally:
        library.removeHandler(handler)
        transformers_logging.set_verbosity(verbosity)
    (line,) = [record.getMessage() for record in records if record.name.startswith("anyoptim")]
    planned = anyoptim.plan(name, llama(), args)
    assert line == planned.summary
    assert planned.implementation.class_path in line and planned.implementation.name in line
    optimizer = built(trainer.optimizer)
    assert optimizer is not None
    assert f"{len(optimizer.param_groups)} groups of " in line
    assert planned.state_bytes == measured_state_bytes(optimizer)


def test_nothing_is_predicted_when_nobody_reads_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(llama(), arguments(tmp_path, max_steps=1, **fields_of("apollo_mini")))
    assert not [record for record in caplog.records if record.name.startswith("anyoptim")]


def test_a_card_of_an_optimizer_that_is_not_ours(tmp_path: Path) -> None:
    import torch

    model = llama()
    trainer = Trainer(
        model,
        arguments(tmp_path, max_steps=1),
        train_dataset=data(),
        optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None),
    )
    trainer.train()
    trainer.create_model_card(model_name="tiny")
    assert trainer.state.stateful_callbacks["OptimizerRecord"]["attributes"]["class"] == "torch.optim.sgd:SGD"
    assert "- optimizer: torch.optim.sgd:SGD with lr=0.1" in (tmp_path / "README.md").read_text()
    assert record_of(inner(trainer.optimizer)) is None
