"""A DeepSpeed configuration that would silently replace the optimizer is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PROGRAM = """
import json, sys
import anyoptim, toys
from transformers import Trainer, TrainingArguments
anyoptim.enable()
config = {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", **json.loads(sys.argv[1])}
args = TrainingArguments(**toys.run_arguments(sys.argv[2], optim="sgd", max_steps=1, deepspeed=config))
trainer = Trainer(toys.llama(), args, train_dataset=toys.data())
try:
    trainer.train()
except anyoptim.UnsupportedError as error:
    print("refused:", error)
assert trainer.optimizer is None
"""


@pytest.mark.slow
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
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [*launch, str(program), json.dumps(config), str(tmp_path)],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "refused: " in done.stdout and message in done.stdout
