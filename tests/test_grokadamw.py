"""GrokAdamW's signal: from the Trainer's losses, or from functions of the user."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import MATRICES, Net, build, last
from torch.utils.data import Subset
from toys import arguments, data, inner, llama, needs_of, train
from transformers import Trainer, TrainerCallback

import anyoptim
from anyoptim.engines.grokadamw import GrokAdamW


def test_the_signal_is_the_gap_relative_to_the_larger_loss() -> None:
    optimizer = GrokAdamW(Net(MATRICES).parameters(), alpha_init=0.9, grokking_signal_decay_rate=0.5)
    (group,) = optimizer.param_groups
    assert optimizer.signal(group) == 0.0
    optimizer.report_losses(train_loss=1.0)
    assert optimizer.signal(group) == 0.0
    optimizer.report_losses(eval_loss=4.0)
    assert optimizer.signal(group) == 0.75
    assert optimizer.alpha(group) == pytest.approx(0.9 * math.exp(-0.5 * 0.75))
    optimizer.report_losses(eval_loss=0.5)
    assert optimizer.signal(group) == 0.0
    optimizer.report_losses(train_loss=-2.0, eval_loss=-1.0)
    assert optimizer.signal(group) == 0.0


def test_functions_replace_the_losses() -> None:
    signals: list[float | None] = [0.5, None]
    model = Net(MATRICES)
    optimizer = build("grokadamw", model, grokking_signal_fns=[lambda: signals[0], lambda: signals[1]])
    (group,) = optimizer.param_groups
    optimizer.report_losses(train_loss=1.0, eval_loss=4.0)
    assert optimizer.signal(group) == 0.5
    signals[:] = [0.5, 0.1]
    assert optimizer.signal(group) == pytest.approx(0.3)
    signals[:] = [None, None]
    assert optimizer.signal(group) == 0.0


def test_functions_are_passed_by_name_and_stay_out_of_the_state_dict(tmp_path: Path) -> None:
    def build_one(signal: float) -> Any:
        return anyoptim.get_optimizer("grokadamw", llama(), lr=1e-3, grokking_signal_fns=[lambda: signal])

    first, second = build_one(0.25), build_one(0.5)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.signal(second.param_groups[0]) == 0.5


def test_the_losses_are_part_of_the_state_dict() -> None:
    first, second = (build("grokadamw", Net(MATRICES)) for _ in range(2))
    first.report_losses(train_loss=1.0, eval_loss=4.0)
    second.load_state_dict(first.state_dict())
    assert second.signal(second.param_groups[0]) == 0.75


def test_a_signal_changes_the_step() -> None:
    results = []
    for losses in ({}, {"train_loss": 1.0, "eval_loss": 4.0}):
        model = Net(MATRICES)
        optimizer = build("grokadamw", model)
        optimizer.report_losses(**losses)
        results.append(last(model, optimizer, range(1, 6)))
    assert not torch.equal(results[0]["tall"], results[1]["tall"])


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
def test_the_trainer_reports_its_losses(tmp_path: Path) -> None:
    """Evaluated on other text than it trains on, the model falls behind, and alpha with it."""
    seen: list[tuple[float, float]] = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            engine = inner(optimizer)
            group = engine.param_groups[0]
            seen.append((engine.signal(group), engine.alpha(group)))

    noise = torch.randint(256, (8, 32), generator=torch.Generator().manual_seed(0))
    evaluation = [{"input_ids": row, "labels": row} for row in noise]
    fields = {**needs_of("grokadamw"), "eval_strategy": "steps", "eval_steps": 4, "logging_steps": 2}
    args = arguments(tmp_path, optim="grokadamw", max_steps=12, **fields)
    trainer = train(llama(), args, Trainer, eval_dataset=evaluation, callbacks=[Watch()])
    logged = trainer.state.log_history
    assert [signal for signal, _ in seen[:4]] == [0.0] * 4
    train_loss = next(row["loss"] for row in logged if row.get("step") == 10 and "loss" in row)
    eval_loss = next(row["eval_loss"] for row in logged if row.get("step") == 8 and "eval_loss" in row)
    signal, alpha = seen[11]
    assert signal == pytest.approx((eval_loss - train_loss) / eval_loss) and signal > 0
    assert alpha == pytest.approx(0.98 * math.exp(-0.1 * signal)) and alpha < 0.98


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("name", ["grokadamw", "lookahead(grokadamw)", "muon+grokadamw"])
def test_several_evaluation_sets_are_one_loss(name: str, tmp_path: Path) -> None:
    rows = torch.randint(256, (8, 32), generator=torch.Generator().manual_seed(0))
    sets = {"noise": [{"input_ids": row, "labels": row} for row in rows], "text": Subset(data(), range(8))}
    args = arguments(
        tmp_path, optim=name, max_steps=4, eval_strategy="steps", eval_steps=2, learning_rate=1e-3, max_grad_norm=0.0
    )
    trainer = train(llama(), args, eval_dataset=sets)
    logged = {key: row[key] for row in trainer.state.log_history for key in row}
    held = [group["eval_loss"] for group in inner(trainer.optimizer).param_groups if "eval_loss" in group]
    mean = (logged["eval_noise_loss"] + logged["eval_text_loss"]) / 2
    assert held and held == pytest.approx([mean] * len(held))
    assert logged["eval_noise_loss"] != logged["eval_text_loss"]


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
def test_without_evaluation_there_is_no_signal(tmp_path: Path) -> None:
    args = arguments(tmp_path, optim="grokadamw", max_steps=3, **needs_of("grokadamw"))
    optimizer = inner(train(llama(), args, train_dataset=data()).optimizer)
    assert optimizer.param_groups[0]["train_loss"] is not None
    assert optimizer.signal(optimizer.param_groups[0]) == 0.0
