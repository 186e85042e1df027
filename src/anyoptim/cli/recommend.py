"""``anyoptim recommend``: which optimizer to take for a model within so much memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from anyoptim.cli.output import console, print_json, print_rich
from anyoptim.cli.parameters import AsJson, Dtype, Model, Ranks, Sharding
from anyoptim.errors import OptimError
from anyoptim.names.registry import list_optimizers, listed
from anyoptim.text import format_bytes, read_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from anyoptim.planning.recommending import Recommendation, Recommended

EXAMPLES = (
    "anyoptim recommend --model llama-7b --memory 24GiB",
    "anyoptim recommend --model llama-7b --memory 16GiB --task lora --commercial",
    "anyoptim recommend --model llama-7b --memory 80GB --ranks 8 --task pretrain --json",
)


class Task(str, Enum):
    """What a user is up to."""

    pretrain = "pretrain"
    finetune = "finetune"
    lora = "lora"


def recommend_command(
    model: Model,
    memory: Annotated[str, typer.Option(help="Of one process: 24GiB, 80GB.")],
    task: Annotated[Task, typer.Option(help="Whose evidence counts; lora trains adapters only.")] = Task.finetune,
    commercial: Annotated[bool, typer.Option("--commercial", help="Only what may be used commercially.")] = False,
    dtype: Dtype = "bf16",
    ranks: Ranks = 1,
    sharding: Sharding = "fsdp2",
    every: Annotated[
        bool, typer.Option("--all", help="All that fits, also names without evidence; takes longer.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say which optimizers to take: what fits, the best evidence first, with the line to paste."""
    available = read_bytes(memory)
    names = [
        name
        for name in list_optimizers(installed=True, commercial=commercial or None)
        if not listed(name).is_wrapper and "/" not in name
    ]
    with _progress(hidden=as_json) as tell:
        tell("importing transformers")
        from anyoptim.integrations.models import meta_model, with_adapters
        from anyoptim.planning.recommending import recommend

        tell(f"reading {model}")
        on_meta = meta_model(model, dtype)
        if task is Task.lora:
            on_meta = with_adapters(on_meta)
        found = recommend(
            on_meta, available, names, task=task.value, ranks=ranks, how=sharding, every=every,
            on_each=lambda name: tell(f"planning {name}"),
        )  # fmt: skip
    if as_json:
        print_json(
            {
                "model": model,
                "task": task.value,
                "dtype": dtype,
                "memory": available,
                "ranks": ranks,
                "recommended": [each.to_dict() for each in found.best],
                "left_out": {each.name: each.why for each in found.left_out},
                "without_evidence": found.unmeasured,
            }
        )
    if not found.best:
        smaller = "a smaller model" if task is Task.lora else "--task lora or a smaller model"
        raise OptimError(
            f"Nothing with evidence trains {model} in {dtype} within {memory}: take more ranks, {smaller}; --all"
            " looks at names without evidence, too."
        )
    if not as_json:
        where = f" on each of {ranks} ranks under {sharding}" if ranks > 1 else ""
        title = f"{model} in {dtype}, {task.value}, within {memory}{where}: the best evidence first"
        for part in _answer(found, title, available, task):
            print_rich(part, whole_lines=True)


@contextmanager
def _progress(*, hidden: bool) -> Iterator[Callable[[str], None]]:
    """Show on stderr what is under way, if it is a terminal; gives what is to be told."""
    if hidden or not sys.stderr.isatty():
        yield lambda _: None
        return
    with console(sys.stderr).status("") as status:
        yield status.update


def _answer(found: Recommended, title: str, memory: int, task: Task) -> Iterator[RenderableType]:
    from rich.text import Text

    from anyoptim.planning.bars import memory_bars

    yield Text(title, style="bold")
    for number, each in enumerate(found.best, 1):
        yield _entry(number, each)
    yield memory_bars({each.name: each.footprint for each in found.best}, memory=memory)
    for left in found.left_out:
        yield Text(f"left out: {left.name}, {left.why}", style="dim")
    if task is Task.lora:
        yield Text("Adapters were not measured: sorted by the fine-tune of all weights.", style="dim")
    yield Text(
        "Evidence is of small models on short tasks (docs/evidence.md). Activations are not counted: a tenth of the"
        " memory is kept for them.",
        style="dim",
    )
    yield Text("Rates are the middle of the usual ones; `anyoptim translate` finds yours from AdamW's.", style="dim")
    if found.unmeasured:
        yield Text(f"{found.unmeasured} names without evidence were not looked at; --all does.", style="dim")


def _entry(number: int, each: Recommendation) -> RenderableType:
    from rich.text import Text

    held = format_bytes(each.footprint.total or 0)
    if each.footprint.elsewhere:
        held += f", and {format_bytes(each.footprint.elsewhere)} in the host's memory"
    rows = (("why", each.why), ("cost", each.cost))
    said = "".join(f"   {key}: {value}\n" for key, value in rows if value)
    return Text.assemble((f"{number}. {each.name}", "bold"), f"  {held}\n", said, (f"   {each.line}", "cyan"))
