"""The ``anyoptim`` command: its parts, one file each, and what becomes of errors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

import anyoptim
from anyoptim.cli import check, compare, demo, doctor, info, list, plan, recommend, run
from anyoptim.errors import OptimError

app = typer.Typer(
    help="Any optimizer through one optim= string.",
    epilog="Exit codes: 0 done; 1 it cannot be done, as one sentence says; 2 the command line is wrong; 130 Ctrl-C.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _add(name: str, module: ModuleType, command: Callable[..., None], **settings: Any) -> None:
    examples = (f"[cyan]{escape(each)}[/cyan]" for each in module.EXAMPLES)
    app.command(name, epilog="\n\n".join(("[bold]Examples[/bold]", *examples)), **settings)(command)


_add("list", list, list.list_command)
_add("info", info, info.info_command)
_add("plan", plan, plan.plan_command)
_add("recommend", recommend, recommend.recommend_command)
_add("compare", compare, compare.compare_command)
_add("run", run, run.run_command, context_settings=run.SETTINGS)
_add("check", check, check.check_command)
_add("doctor", doctor, doctor.doctor_command)
_add("demo", demo, demo.demo_command)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"anyoptim {anyoptim.__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Any optimizer through one optim= string, and every promise checked."""
    global _debug
    _debug = debug


_debug = False


def main() -> None:
    """Run the command; an error becomes one line and exit code 1."""
    # transformers imports them, and they report missing kernels that nothing here uses
    for package in ("bitsandbytes", "torchao", "torch.utils._pytree"):
        logging.getLogger(package).setLevel(logging.ERROR)
    # also behind a command, but for `run`, whose words are the script's
    if "--debug" in sys.argv and "run" not in sys.argv[: sys.argv.index("--debug")]:
        sys.argv.remove("--debug")
        sys.argv.insert(1, "--debug")
    try:
        app()
    except OptimError as error:
        if _debug:
            raise
        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        raise SystemExit(1) from None
    except Exception as error:  # what nobody thought of is a sentence, too
        if _debug:
            raise
        what = Text.assemble(("error: ", "bold red"), f"{type(error).__name__}: {error} (--debug shows where)")
        Console(stderr=True).print(what, soft_wrap=True)
        raise SystemExit(1) from None
