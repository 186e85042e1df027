"""``anyoptim compare``: optimizers on one task, through the real Trainer, with a report."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from anyoptim.cli.output import INTERRUPTED, console
from anyoptim.cli.parameters import AsJson, complete_name
from anyoptim.errors import OptimError
from anyoptim.names import packages
from anyoptim.names.lookup import optimizer_info

EXAMPLES = (
    "anyoptim compare apollo_mini adalomo --steps 2 --output out",
    "anyoptim compare muon lion --lr auto --seeds 2 --steps 2 --output out",
    "anyoptim compare grokadamw --task modular-addition --steps 2 --output out",
)


def compare_command(
    names: Annotated[
        list[str], typer.Argument(help="Optimizers; adamw_torch joins them.", autocompletion=complete_name)
    ],
    task: Annotated[str, typer.Option(help="bytes, finetune, modular-addition, or module:function.")] = "bytes",
    lr: Annotated[
        str,
        typer.Option(
            help="Rates such as 1e-4,1e-3; search: for each one's best; auto: its lowest, middle, highest usual; high."
        ),
    ] = "high",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each rate, from different weights and data orders.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each run.")] = None,
    optim_args: Annotated[
        list[str] | None, typer.Option(help="NAME:key=value,… for one of the optimizers; repeat it.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for results.jsonl, the pictures and report.html.")] = Path(
        "compare"
    ),
    as_json: AsJson = False,
) -> None:
    """Train one model with each optimizer and report losses, time, memory and sensitivity to the learning rate.

    What is finished is kept: after an interrupt, the same command goes on.
    """
    rates = _rates(lr)
    of_each = dict(of_one(text) for text in optim_args or ())
    run_comparison(
        names,
        task=task,
        rates=rates,
        seeds=seeds,
        steps=steps,
        optim_args=of_each,
        output=output,
        needed_by="anyoptim compare",
        as_json=as_json,
    )


def run_comparison(
    names: list[str],
    *,
    task: str,
    rates: list[float] | str,
    seeds: int,
    steps: int | None,
    optim_args: dict[str, str],
    output: Path,
    needed_by: str,
    as_json: bool,
) -> None:
    """Check what can be checked, then compare; exit code 130 after an interrupt.

    Raises:
        OptimError: an unknown name or task, or a rate that is no number; before anything is trained.
        MissingPackageError: transformers, matplotlib or jinja2 is not installed; before anything is trained.
    """
    for name in (*names, *optim_args):
        optimizer_info(name)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from anyoptim.comparing.progress import shown_on

    screen = console(sys.stderr if as_json else None)
    show = shown_on(screen)
    with show("importing torch and transformers"):
        packages.need_transformers(needed_by)
        for package in ("matplotlib", "jinja2"):
            packages.load(package, needed_by=needed_by, package=package, install="pip install 'anyoptim[compare]'")
        from anyoptim.comparing.compare import Comparison, compare
        from anyoptim.comparing.task_loading import load_task

        comparison = Comparison(
            names,
            load_task(task),
            output,
            shlex.join(["anyoptim", *sys.argv[1:]]),
            rates=rates,
            seeds=seeds,
            steps=steps,
            optim_args={optimizer_info(name).name: text for name, text in optim_args.items()},
        )
    if not compare(comparison, screen, show, as_json=as_json):
        raise typer.Exit(INTERRUPTED)


def _rates(text: str) -> list[float] | str:
    if text in ("auto", "high", "search"):
        return text
    try:
        rates = [float(each) for each in text.split(",")]
    except ValueError:
        rates = []
    if not rates or min(rates) <= 0:
        raise OptimError(f"--lr {text!r} is no list of positive rates; write 1e-4,3e-4,1e-3, or search, auto or high.")
    return rates


def of_one(text: str) -> tuple[str, str]:
    """Return the name and the values that ``--optim-args NAME:key=value`` has.

    Raises:
        OptimError: there is no name, or no optimizer of it.
    """
    name, colon, values = text.rpartition(":")
    if not colon:
        raise OptimError(f"--optim-args {text!r} has no optimizer; write it as NAME:key=value,key=value.")
    return optimizer_info(name).name, values
