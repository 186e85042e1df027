"""``anyoptim plan``: what would be built for a model, and its memory, before anything is built."""

from __future__ import annotations

from typing import Annotated

import typer

from anyoptim.cli.output import AsJson, Name, print_json, print_rich
from anyoptim.registry import optimizer_info

EXAMPLES = (
    "anyoptim plan apollo_adamw --model llama-7b --optim-args rank=256 --dtype bf16",
    "anyoptim plan muon --model tiny-llama --lr 0.02 --weight-decay 0.1 --json",
)


def plan_command(
    name: Name,
    model: Annotated[str, typer.Option(help="A config.json, a folder with one, or a preset such as tiny-llama.")],
    optim_args: Annotated[str | None, typer.Option(help="As in TrainingArguments: 'rank=256,scale=1.0'.")] = None,
    target_modules: Annotated[
        list[str] | None, typer.Option(help="A pattern of optim_target_modules; repeat for a list.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="TrainingArguments' learning_rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="TrainingArguments' weight_decay.")] = None,
    dtype: Annotated[str, typer.Option(help="dtype of the weights.")] = "float32",
    ranks: Annotated[int, typer.Option(min=1, help="Processes that share the memory.")] = 1,
    sharding: Annotated[str, typer.Option(help="How they share it: ddp, fsdp2, zero1, zero2 or zero3.")] = "fsdp2",
    as_json: AsJson = False,
) -> None:
    """Show what would be built for a model, and its memory, without building it."""
    from anyoptim.footprint import sharding as sharding_of
    from anyoptim.integrations.models import load_config, make_model
    from anyoptim.planning import plan
    from anyoptim.table import plan_dict, plan_table
    from anyoptim.values import convert

    spec = optimizer_info(name)
    weights = convert(dtype, "torch.dtype", "--dtype")
    on_meta = make_model(load_config(model), device="meta", dtype=weights)  # type: ignore[arg-type]  # convert's word
    targets: object = target_modules or ("all-linear" if spec.traits.names_targets else None)
    if isinstance(targets, list) and len(targets) == 1:
        targets = targets[0]
    args = {
        **dict(sharding_of(sharding).fields if ranks > 1 else ()),
        "learning_rate": lr,
        "weight_decay": weight_decay,
        "optim_args": optim_args,
        "optim_target_modules": targets,
    }
    planned = plan(name, on_meta, args)
    if as_json:
        print_json(plan_dict(planned, ranks, sharding))
    else:
        print_rich(plan_table(planned, ranks, sharding))
