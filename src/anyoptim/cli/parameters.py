"""The arguments and options that several commands have, and how a shell completes them."""

from __future__ import annotations

from typing import Annotated

import typer

from anyoptim.names.registry import list_optimizers


def complete_name(incomplete: str) -> list[str]:
    """Return the names of optimizers that begin so."""
    return [name for name in list_optimizers() if name.startswith(incomplete)]


def complete_model(incomplete: str) -> list[str]:
    """Return the presets and the architectures of transformers that begin so."""
    from anyoptim.integrations.presets import PRESETS, architectures

    return [name for name in (*PRESETS, *architectures()) if name.startswith(incomplete)]


def complete_schedule(incomplete: str) -> list[str]:
    """Return the types of schedules that begin so, without transformers, whose import takes seconds."""
    return [name for name in SCHEDULES if name.startswith(incomplete)]


SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial")
"""The types that need nothing but steps; transformers has more."""

AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Name = Annotated[
    str, typer.Argument(help="An optimizer's name, alias or class path module:Class.", autocompletion=complete_name)
]
Names = Annotated[
    list[str],
    typer.Argument(help="Optimizers' names, aliases or class paths module:Class.", autocompletion=complete_name),
]
Model = Annotated[
    str,
    typer.Option(
        help="A config.json or a folder with one, a preset such as tiny-llama, an architecture of transformers such"
        " as gpt2, or a model of the Hub that is in its local cache.",
        autocompletion=complete_model,
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
