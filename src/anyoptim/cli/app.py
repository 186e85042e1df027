"""The ``anyoptim`` command: list, info, plan, check, demo. Errors are one sentence on stderr, exit code 1."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from anyoptim.errors import OptimError, did_you_mean
from anyoptim.overrides import GROUP_OPTIONS
from anyoptim.registry import list_optimizers, listed, optimizer_info
from anyoptim.spec import REQUIRED, Hyperparameter, OptimizerSpec
from anyoptim.text import plain
from anyoptim.values import type_name

app = typer.Typer(
    help="Any optimizer through one optim= string.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_STATUS_STYLES = {"pass": "green", "fail": "bold red", "limit": "yellow", "n/a": "dim"}

AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Name = Annotated[str, typer.Argument(help="An optimizer's name, alias or class path module:Class.")]


def main() -> None:
    """Run the command; an ``OptimError`` becomes one line and exit code 1."""
    # transformers imports them, and they report missing kernels that nothing here uses
    for package in ("bitsandbytes", "torchao", "torch.utils._pytree"):
        logging.getLogger(package).setLevel(logging.ERROR)
    try:
        app()
    except OptimError as error:
        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        raise SystemExit(1) from None


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="Wildcards, such as 'schedule_free*'.")] = "*",
    package: Annotated[str | None, typer.Option(help="Only what this pip package backs.")] = None,
    installed: Annotated[bool, typer.Option("--installed", help="Only what is installed here.")] = False,
    commercial: Annotated[bool, typer.Option("--commercial", help="Only what may be used commercially.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the registered optimizers."""
    names = list_optimizers(pattern, package=package, installed=installed or None, commercial=commercial or None)
    specs = [listed(name) for name in names]
    if as_json:
        return print_json([_spec_summary(spec) for spec in specs])
    if not specs:
        origin = f" in package {package!r}" if package else ""
        raise OptimError(f"No optimizer matches {pattern!r}{origin}; `anyoptim list` shows every name.")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("name", "package", "licence", "summary"):
        table.add_column(column, no_wrap=column != "summary")
    for spec in specs:
        missing = "" if spec.installed else " (not installed)"
        table.add_row(
            spec.name, spec.package + missing, spec.licence, spec.summary, style="" if spec.installed else "dim"
        )
    print_rich(table)


@app.command()
def info(name: Name, as_json: AsJson = False) -> None:
    """Show what a name means: hyperparameters, implementations, paper, licence."""
    spec = optimizer_info(name)
    if as_json:
        return print_json(_spec_details(spec))
    print_rich(Text.assemble((spec.name, "bold"), f": {spec.summary}"))
    facts = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    facts.add_row("aliases", ", ".join(spec.aliases) or "-")
    facts.add_row("paper", spec.paper or "-")
    if spec.usual_lr:
        facts.add_row("usual lr", f"{spec.usual_lr[0]:g} to {spec.usual_lr[1]:g}")
    facts.add_row("traits", ", ".join(_traits(spec)) or "-")
    for implementation in spec.implementations:
        licence = implementation.licence or "licence not stated"
        state = "installed" if implementation.installed else f"not installed: {implementation.pip_install}"
        default = ", the default" if implementation is spec.default else ""
        facts.add_row(
            implementation.name,
            f"{implementation.class_path} of {implementation.package} ({licence}), {state}{default}",
        )
    for limit, reason in sorted(spec.default.limits.items()):
        facts.add_row("limit", f"{limit}: {reason}")
    if spec.default.unusable:
        facts.add_row("limit", f"cannot train here: {spec.default.unusable}")
    if spec.is_wrapper:
        facts.add_row("use it as", f"{spec.name}(adamw_torch), around any other name; its arguments as below")
    print_rich(facts)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("optim_args", "type", "default", "meaning"):
        table.add_column(column, no_wrap=column != "meaning")
    options = GROUP_OPTIONS.values() if spec.default.takes_groups and not spec.is_wrapper else ()
    prefix = f"{spec.name}_" if spec.is_wrapper else ""
    for each in (*spec.hyperparameters, *options):
        table.add_row(f"{prefix}{each.name}", type_name(each.type), str(plain(each.default)), _meaning(each))
    print_rich(table)


@app.command("plan")
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
    as_json: AsJson = False,
) -> None:
    """Show what would be built for a model, and its memory, without building it."""
    from anyoptim.integrations.models import load_config, make_model
    from anyoptim.planning import plan
    from anyoptim.values import convert

    spec = optimizer_info(name)
    weights = convert(dtype, "torch.dtype", "--dtype")
    on_meta = make_model(load_config(model), device="meta", dtype=weights)  # type: ignore[arg-type]  # convert's word
    targets: object = target_modules or ("all-linear" if spec.traits.names_targets else None)
    if isinstance(targets, list) and len(targets) == 1:
        targets = targets[0]
    args = {
        "learning_rate": lr,
        "weight_decay": weight_decay,
        "optim_args": optim_args,
        "optim_target_modules": targets,
    }
    planned = plan(name, on_meta, args)
    print_json(planned.to_dict()) if as_json else print_rich(planned)


@app.command()
def check(
    name: Name,
    checks: Annotated[list[str] | None, typer.Option("--check", help="Only this check; repeat it.")] = None,
    optim_args: Annotated[str | None, typer.Option(help="What it needs, as in TrainingArguments.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run the conformance kit on an optimizer; exit code 1 if a promise is not kept."""
    from anyoptim.testing import CHECKS, check_optimizer

    unknown = [each for each in checks or () if each not in CHECKS]
    if unknown:
        raise OptimError(f"No check is called {unknown[0]!r}.{did_you_mean(unknown[0], CHECKS)}")
    with contextlib.redirect_stdout(sys.stderr):  # what packages print is no part of the answer
        report = check_optimizer(name, checks=checks or None, **({"optim_args": optim_args} if optim_args else {}))
    if as_json:
        print_json({"name": report.name, "verdicts": [vars(each) for each in report.verdicts]})
    else:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for each in report.verdicts:
            table.add_row(Text(each.status, style=_STATUS_STYLES[each.status]), each.check, each.reason)
        print_rich(table)
    if not report:
        raise typer.Exit(1)


@app.command()
def demo(
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each optimizer.")] = 120,
    optim: Annotated[
        list[str] | None, typer.Option(help="A name to train; repeat it. Default: the guide's names.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for losses.png and results.json.")] = Path("demo"),
    as_json: AsJson = False,
) -> None:
    """Train a small Llama on Python's own source with each optimizer, through the real Trainer."""
    from anyoptim.cli.demo import GUIDE, run_demo

    run_demo(optim or GUIDE, steps=steps, output=output, as_json=as_json)


def print_json(value: object) -> None:
    """Write JSON to stdout, in colour nowhere."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_rich(value: RenderableType) -> None:
    """Write to stdout; piped output is wide, so that nothing is cut."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(value)


def _traits(spec: OptimizerSpec) -> list[str]:
    return [name for name, value in vars(spec.traits).items() if value is True]


def _meaning(hyperparameter: Hyperparameter) -> str:
    parts = [hyperparameter.help, str(hyperparameter.within or "")]
    if hyperparameter.scope == "target":
        parts.append("target modules only")
    return "; ".join(part for part in parts if part)


def _spec_summary(spec: OptimizerSpec) -> dict[str, object]:
    return {
        "name": spec.name,
        "aliases": list(spec.aliases),
        "package": spec.package,
        "licence": spec.licence,
        "installed": spec.installed,
        "summary": spec.summary,
    }


def _spec_details(spec: OptimizerSpec) -> dict[str, object]:
    return {
        **_spec_summary(spec),
        "paper": spec.paper,
        "usual_lr": spec.usual_lr,
        "traits": _traits(spec),
        "implementations": [
            {
                "name": each.name,
                "class": each.class_path,
                "package": each.package,
                "licence": each.licence,
                "installed": each.installed,
                "install": each.pip_install,
                "limits": dict(each.limits),
            }
            for each in spec.implementations
        ],
        "hyperparameters": [
            {
                "name": each.name,
                "type": type_name(each.type),
                "default": None if each.default is REQUIRED else plain(each.default),
                "required": each.default is REQUIRED,
                "range": str(each.within or ""),
                "scope": each.scope,
                "help": each.help,
            }
            for each in spec.hyperparameters
        ],
    }
