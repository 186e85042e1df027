"""``anyoptim plan``: what would be built for a model, and its memory, before anything is built."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from anyoptim.cli.output import print_json, print_note, print_rich, write_file
from anyoptim.cli.parameters import AsJson, Dtype, Model, Name, Ranks, Sharding, complete_schedule
from anyoptim.names.lookup import optimizer_info
from anyoptim.text import read_bytes

EXAMPLES = (
    "anyoptim plan apollo_adamw --model llama-7b --optim-args rank=256 --dtype bf16 --ranks 8",
    "anyoptim plan muon --model llama-7b --dtype bf16 --memory 24GiB",
    "anyoptim plan muon --model llama-7b --schedule cosine --warmup 0.03 --steps 10000 --html plan.html",
    "anyoptim plan muon --model tiny-llama --lr 0.02 --weight-decay 0.1 --json",
)


def plan_command(
    name: Name,
    model: Model,
    optim_args: Annotated[str | None, typer.Option(help="As in TrainingArguments: 'rank=256,scale=1.0'.")] = None,
    target_modules: Annotated[
        list[str] | None, typer.Option(help="A pattern of optim_target_modules; repeat for a list.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="TrainingArguments' learning_rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="TrainingArguments' weight_decay.")] = None,
    dtype: Dtype = "float32",
    ranks: Ranks = 1,
    sharding: Sharding = "fsdp2",
    memory: Annotated[str | None, typer.Option(help="Of one process, such as 24GiB or 80GB: whether it fits.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="TrainingArguments' lr_scheduler_type.", autocompletion=complete_schedule)
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(min=0, help="TrainingArguments' warmup_steps; below 1 a share of the steps.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="TrainingArguments' max_steps.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page: memory, the model by layers, the rates through training.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what would be built for a model, and its memory, without building it."""
    available = None if memory is None else read_bytes(memory)
    from anyoptim.integrations.models import meta_model
    from anyoptim.integrations.schedules import schedule_of
    from anyoptim.memory.footprint import sharding as sharding_of
    from anyoptim.planning.plan import plan

    spec = optimizer_info(name)
    on_meta = meta_model(model, dtype)
    targets: object = target_modules or ("all-linear" if spec.traits.names_targets else None)
    if isinstance(targets, list) and len(targets) == 1:
        targets = targets[0]
    args = {
        **dict(sharding_of(sharding).fields if ranks > 1 else ()),
        "learning_rate": lr,
        "weight_decay": weight_decay,
        "optim_args": optim_args,
        "optim_target_modules": targets,
        "lr_scheduler_type": schedule,
        "warmup_steps": warmup,
        "max_steps": steps,
    }
    planned = plan(name, on_meta, args)
    found = schedule_of(planned) if html or schedule else None
    if html is not None:
        command = shlex.join(["anyoptim", *sys.argv[1:]])
        where = f"{model} in {dtype}"
        page = planned.to_html(ranks, sharding, available, schedule=found, model=where, command=command)
        write_file(html, page)
    if as_json:
        print_json(planned.to_dict(ranks, sharding, available))
    else:
        print_rich(planned.table(ranks, sharding, available))
    if html is not None:
        print_note(f"The page is {html}.")
