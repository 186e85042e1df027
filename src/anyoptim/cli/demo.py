"""``anyoptim demo``: every optimizer on one small model, live, then a table and a picture."""

from __future__ import annotations

import dataclasses
import json
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from anyoptim import packages
from anyoptim.cli.output import AsJson
from anyoptim.errors import MissingPackageError
from anyoptim.registry import optimizer_info
from anyoptim.text import format_bytes

if TYPE_CHECKING:
    from anyoptim.integrations.race import Run

EXAMPLES = ("anyoptim demo --steps 2 --optim adalomo --optim apollo_mini --output out",)

BASELINE = "adamw_torch"
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
    output: Annotated[Path, typer.Option(help="Folder for losses.png and results.json.")] = Path("demo"),
    as_json: AsJson = False,
) -> None:
    """Train a small Llama on Python's own source with each optimizer, through the real Trainer."""
    run_demo(optim or GUIDE, steps=steps, output=output, as_json=as_json)


def run_demo(names: Sequence[str], *, steps: int, output: Path, as_json: bool) -> None:
    """Train with each name, print a table, and write ``losses.png`` and ``results.json``.

    Args:
        names: registered names, each trained once; the baseline joins them for the relative step time.
        steps: training steps of each.
        output: folder for the results, made if it is missing.
        as_json: print the results as JSON instead of bars and a table.

    Raises:
        UnknownOptimizerError: one of the names is not registered; before anything is trained.
        MissingPackageError: transformers or matplotlib is not installed; before anything is trained.
    """
    ordered = list(dict.fromkeys([BASELINE, *(optimizer_info(name).name for name in names)]))
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=100)
    with console.status("importing torch and transformers"):
        packages.need_transformers("anyoptim demo")
        packages.load(
            "matplotlib", needed_by="anyoptim demo", package="matplotlib", install="pip install 'anyoptim[compare]'"
        )
        from anyoptim.cli.plot import plot_losses
        from anyoptim.integrations.models import load_config
        from anyoptim.integrations.race import race_one
        from anyoptim.integrations.stdlib_text import stdlib_bytes

    config = load_config("tiny-llama")
    train, heldout = stdlib_bytes(length=128)
    console.print(
        f"A Llama of {config.num_hidden_layers} layers, trained on {len(train) * 128 / 1e6:.1f} MB of Python's "
        f"standard library byte by byte, {steps} steps with each of {len(ordered)} optimizers."
    )
    began = time.monotonic()
    runs: list[Run] = []
    missing: list[str] = []
    progress = Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        console=console,
    )
    with progress, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ordered:
            bar = progress.add_task(name, total=steps, loss="")

            def show(step: int, loss: float, bar: TaskID = bar) -> None:
                progress.update(bar, completed=step, loss=f"loss {loss:.3f}")

            try:
                runs.append(race_one(name, config, train, heldout, steps=steps, on_step=show))
            except MissingPackageError as error:
                missing.append(str(error))
                progress.update(bar, loss="not installed")

    output.mkdir(parents=True, exist_ok=True)
    results = json.dumps([dataclasses.asdict(run) for run in runs], indent=2)
    (output / "results.json").write_text(results)
    picture = output / "losses.png"
    plot_losses(runs, picture, baseline=BASELINE)
    if as_json:
        print(results)
        return
    console.print(_table(runs))
    console.print(
        f"Losses in nats per byte, best held-out first; step time relative to {BASELINE}. One short run each, at the"
        " highest usual learning rate: no ranking.",
        style="dim",
    )
    for sentence in missing:
        console.print(f"left out: {sentence}", style="yellow")
    console.print(f"The loss curves: {picture}   ({time.monotonic() - began:.0f} s)")


def _table(runs: Sequence[Run]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("optimizer", no_wrap=True)
    table.add_column("implementation", no_wrap=True)
    for column in ("lr", "first\nloss", "last\nloss", "held-out\nloss", "step\ntime", "optimizer\nstate"):
        table.add_column(column, justify="right", no_wrap=True)
    baseline = next(run.step_seconds for run in runs if run.name == BASELINE)
    for run in sorted(runs, key=lambda run: run.heldout_loss):
        table.add_row(
            run.name,
            run.implementation if run.implementation == "native" else run.package,
            f"{run.learning_rate:g}",
            f"{run.losses[0]:.3f}",
            f"{run.losses[-1]:.3f}",
            f"{run.heldout_loss:.3f}",
            f"{run.step_seconds / baseline:.2f}x",
            format_bytes(run.state_bytes),
        )
    return table
