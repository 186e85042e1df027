"""``anyoptim recommend``: the optimizers that train a model within so much memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from anyoptim.cli.output import AsJson, Dtype, Model, Ranks, Sharding, print_json, print_rich
from anyoptim.errors import OptimError
from anyoptim.names.registry import list_optimizers, listed
from anyoptim.text import format_bytes, read_bytes

if TYPE_CHECKING:
    from anyoptim.memory.footprint import Footprint

EXAMPLES = (
    "anyoptim recommend --model llama-7b --memory 24GiB --dtype bf16",
    "anyoptim recommend --model llama-7b --memory 80GB --ranks 8 --top 3 --json",
)


def recommend_command(
    model: Model,
    memory: Annotated[str, typer.Option(help="Of one process: 24GiB, 80GB.")],
    dtype: Dtype = "float32",
    ranks: Ranks = 1,
    sharding: Sharding = "fsdp2",
    top: Annotated[int, typer.Option(min=0, help="Show so many, those that need the least first; 0 shows all.")] = 10,
    every: Annotated[bool, typer.Option("--all", help="Every package's own names, too.")] = False,
    commercial: Annotated[bool, typer.Option("--commercial", help="Only what may be used commercially.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the optimizers whose weights, gradients and state fit, and what to write for each."""
    available = read_bytes(memory)
    from anyoptim.integrations.models import meta_model
    from anyoptim.planning.plan import BESIDE
    from anyoptim.planning.recommending import recommend

    on_meta = meta_model(model, dtype)
    names = [
        name
        for name in list_optimizers(installed=True, commercial=commercial or None)
        if not listed(name).is_wrapper and (every or "/" not in name)
    ]
    with Console(stderr=True).status("planning") as status:
        found = recommend(
            on_meta,
            available,
            names,
            ranks=ranks,
            how=sharding,
            on_each=lambda name: status.update(f"planning {name}"),
        )
    shown = found[: top or None]
    if as_json:
        return print_json([each.to_dict() for each in shown])
    if not found:
        raise OptimError(
            f"Nothing trains {model} in {dtype} within {memory}: take more ranks, bf16 weights or a smaller model."
        )
    print_rich(
        Text(
            f"{len(found)} of {len(names)} optimizers train {model} in {dtype} within {memory}"
            f"{f' on each of {ranks} ranks under {sharding}' if ranks > 1 else ''}, activations not counted:"
        )
    )
    width = max(len(each.name) for each in shown) + 2
    for each in shown:
        print_rich(_entry(each.name.ljust(width), each.footprint, each.line))
    if len(shown) < len(found):
        print_rich(Text(f"and {len(found) - len(shown)} more; --top 0 shows all", style="dim"))
    if not any(each.name == BESIDE for each in found):
        print_rich(Text(f"{BESIDE} does not fit", style="yellow"))


def _entry(name: str, footprint: Footprint, line: str) -> Text:
    parts = (("weights", footprint.weights), ("gradients", footprint.gradients), ("state", footprint.state))
    return Text.assemble(
        (name, "bold"),
        f"{format_bytes(footprint.total):>9}",
        (f"   {', '.join(f'{part} {format_bytes(size)}' for part, size in parts)}\n", "dim"),
        (f"    {line}", "cyan"),
    )
