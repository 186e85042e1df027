"""A DeepSpeed configuration that would silently replace the optimizer is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from processes import in_new_process
from toys import data, llama, run_arguments
from transformers import Trainer, TrainingArguments

import anyoptim


def refuses(config: dict[str, Any], folder: Path) -> None:
    """Keep what is said; for a process of its own, which DeepSpeed never leaves as it was."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    anyoptim.enable()
    config = {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", **config}
    args = TrainingArguments(**run_arguments(folder, optim="sgd", max_steps=1, deepspeed=config))
    trainer = Trainer(llama(), args, train_dataset=data())
    try:
        trainer.train()
    except anyoptim.UnsupportedError as error:
        (folder / "refused").write_text(str(error))
    assert trainer.optimizer is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"zero_optimization": {"stage": 2}, "optimizer": {"type": "AdamW", "params": {"lr": "auto"}}},
            "silently replace optim='sgd'; delete the block.",
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            '"zero_force_ds_cpu_optimizer": false in the DeepSpeed configuration.',
        ),
    ],
)
def test_what_would_replace_the_optimizer_is_refused(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert in_new_process(refuses, config, tmp_path) == 0
    assert message in (tmp_path / "refused").read_text()
