"""How every command answers: JSON or rich text on stdout, and the options that all of them share."""

from __future__ import annotations

import json
import sys
from typing import IO, Annotated

import typer
from rich.console import Console, RenderableType

from anyoptim.names.registry import list_optimizers


def complete_name(incomplete: str) -> list[str]:
    """Return the names of optimizers that begin so, for the shell's completion."""
    return [name for name in list_optimizers() if name.startswith(incomplete)]


def complete_model(incomplete: str) -> list[str]:
    """Return the presets that begin so."""
    from anyoptim.integrations.presets import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Name = Annotated[
    str, typer.Argument(help="An optimizer's name, alias or class path module:Class.", autocompletion=complete_name)
]
Model = Annotated[
    str,
    typer.Option(
        help="A config.json, a folder with one, or a preset such as tiny-llama.", autocompletion=complete_model
    ),
]

Dtype = Annotated[str, typer.Option(help="dtype of the weights.")]
Ranks = Annotated[int, typer.Option(min=1, help="Processes that share the memory.")]
Sharding = Annotated[
    str,
    typer.Option(
        help="How they share it: ddp, fsdp2, zero1, zero2 or zero3.",
        autocompletion=lambda: ["ddp", "fsdp2", "zero1", "zero2", "zero3"],
    ),
]

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""

WIDE = 160
"""Columns of what is piped, so that nothing is cut."""


def print_json(value: object) -> None:
    """Write JSON to stdout, in colour nowhere."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_rich(value: RenderableType, to: IO[str] | None = None) -> None:
    """Write to stdout, or to another stream; piped output is wide and has no colours."""
    console = Console(file=to)
    if not console.is_terminal:
        console = Console(file=to, width=WIDE)
    console.print(value)
