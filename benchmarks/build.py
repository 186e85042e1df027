"""How long it takes to build an optimizer on 1k to 64k linear modules: transformers' Trainer and ours.

    make benchmark            # or: python benchmarks/build.py --sizes 1000,4000 --repeats 10

The three are interleaved in one process, and medians are printed. Building means finding the groups and calling the
constructor. On 64k modules transformers alone takes a minute or more, so it is timed once there.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Annotated

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import Trainer, TrainingArguments

import anyoptim

OPTIMIZERS = {
    "adamw_torch": {},
    "apollo_adamw": {"optim_target_modules": [r".*attn.*", r".*mlp.*"], "optim_args": "rank=1"},
}


LARGEST_REPEATED = 16_000


class Layers(nn.Module):
    """Layers of four linear modules with one-element weights, named as a transformer's are."""

    def __init__(self, linear_modules: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(1, 1) for name in ("attn_qkv", "attn_out", "mlp_up", "mlp_down")})
            for _ in range(linear_modules // 4)
        )


def seconds(build: Callable[[], object]) -> float:
    began = time.perf_counter()
    build()
    return time.perf_counter() - began


def main(
    sizes: Annotated[str, typer.Option(help="Numbers of linear modules.")] = "1000,4000,16000,64000",
    repeats: Annotated[int, typer.Option(min=1)] = 10,
) -> None:
    """Print the table."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    table = Table(title=f"seconds to build, median of {repeats}; {versions}", title_justify="left")
    for column in ("optimizer", "linear modules", "transformers", "Trainer, enabled", "get_optimizer", "speed-up"):
        table.add_column(column, justify="right" if column != "optimizer" else "left")
    for name, fields in OPTIMIZERS.items():
        for size in map(int, sizes.split(",")):
            theirs, enabled, alone = measure(name, fields, size, repeats)
            table.add_row(
                name,
                f"{size:,}",
                f"{theirs:.4f}",
                f"{enabled:.4f}",
                f"{alone:.4f}",
                f"{theirs / enabled:.0f}x, {theirs / alone:.0f}x",
            )
    Console(width=110).print(table)


def measure(name: str, fields: dict[str, object], size: int, repeats: int) -> tuple[float, float, float]:
    """Return median seconds of the Trainer alone, of the Trainer with anyoptim, and of get_optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(output_dir=folder, optim=name, report_to=[], use_cpu=True, **fields)
        trainer = Trainer(Layers(size), args)

        def by_trainer() -> None:
            trainer.optimizer = None
            trainer.create_optimizer()

        rows = []
        theirs = 0.0
        for repeat in range(repeats):
            if size <= LARGEST_REPEATED or repeat == 0:
                theirs = seconds(by_trainer)
            with anyoptim.enable():
                enabled = seconds(by_trainer)
            alone = seconds(lambda: anyoptim.get_optimizer(name, trainer.model, args))
            rows.append((theirs, enabled, alone))
    theirs, enabled, alone = (statistics.median(column) for column in zip(*rows, strict=True))
    return theirs, enabled, alone


if __name__ == "__main__":
    typer.run(main)
