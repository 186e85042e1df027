"""``anyoptim demo``: the comparison of the guide's names on one small model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anyoptim.cli.compare import run_comparison
from anyoptim.cli.parameters import AsJson

EXAMPLES = ("anyoptim demo --steps 2 --optim adalomo --optim apollo_mini --output out",)

GUIDE = (
    "adafactor",
    "adagrad",
    "adalomo",
    "adamw_torch",
    "adamw_torch_fused",
    "apollo_adamw",
    "apollo_adamw_layerwise",
    "apollo_mini",
    "galore_adafactor",
    "galore_adafactor_layerwise",
    "galore_adamw",
    "galore_adamw_8bit",
    "galore_adamw_8bit_layerwise",
    "galore_adamw_layerwise",
    "grokadamw",
    "lomo",
    "muon",
    "rmsprop",
    "schedule_free_adamw",
    "schedule_free_radamw",
    "schedule_free_sgd",
    "sgd",
    "stable_adamw",
)
"""The names that the demo trains: those of the guide of transformers, and the engines of our own."""


def demo_command(
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each optimizer.")] = 120,
    optim: Annotated[
        list[str] | None, typer.Option(help="A name to train; repeat it. Default: the guide's names.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for losses.png, report.html and results.jsonl.")] = Path("demo"),
    as_json: AsJson = False,
) -> None:
    """Train a small Llama on Python's own source with each optimizer, through the real Trainer."""
    run_comparison(
        optim or list(GUIDE),
        task="bytes",
        rates="high",
        seeds=1,
        steps=steps,
        optim_args={},
        output=output,
        needed_by="anyoptim demo",
        as_json=as_json,
    )
