"""``anyoptim recommend``: the optimizers that train a model within so much memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from anyoptim.cli.output import console, print_json, print_rich
from anyoptim.cli.parameters import AsJson, Dtype, Model, Ranks, Sharding
from anyoptim.errors import OptimError
from anyoptim.names.registry import list_optimizers, listed
from anyoptim.text import format_bytes, read_bytes

if TYPE_CHECKING:
    from rich.text import Text

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

    names = [
        name
        for name in list_optimizers(installed=True, commercial=commercial or None)
        if not listed(name).is_wrapper and (every or "/" not in name)
    ]
    with _progress(len(names), hidden=as_json) as tell:
        on_meta = meta_model(model, dtype)
        found = recommend(on_meta, available, names, ranks=ranks, how=sharding, on_each=tell)
    shown = found[: top or None]
    if as_json:
        print_json([each.to_dict() for each in shown])
    if not found:
        raise OptimError(
            f"Nothing trains {model} in {dtype} within {memory}: take more ranks, bf16 weights or a smaller model."
        )
    if as_json:
        return
    from rich.text import Text

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


@contextmanager
def _progress(count: int, *, hidden: bool) -> Iterator[Callable[[str], None]]:
    """Show on stderr how many names are planned, if it is a terminal; gives what is to be told each name."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("planning"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=console(sys.stderr),
        transient=True,
        disable=hidden or not sys.stderr.isatty(),
    ) as progress:
        bar = progress.add_task("", total=count)
        yield lambda name: progress.update(bar, description=name, advance=1)


def _entry(name: str, footprint: Footprint, line: str) -> Text:
    from rich.text import Text

    parts = (("weights", footprint.weights), ("gradients", footprint.gradients), ("state", footprint.state))
    return Text.assemble(
        (name, "bold"),
        f"{format_bytes(footprint.total):>9}",
        (f"   {', '.join(f'{part} {format_bytes(size)}' for part, size in parts)}\n", "dim"),
        (f"    {line}", "cyan"),
    )
