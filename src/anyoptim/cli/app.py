"""The ``anyoptim`` command: its parts, one file each, and what becomes of errors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Annotated, Any

import typer

import anyoptim
from anyoptim.cli import check, compare, demo, doctor, info, list, plan, recommend, run, translate
from anyoptim.cli.output import INTERRUPTED, print_error
from anyoptim.cli.usage import Commands, is_usage_error, usage_sentence
from anyoptim.errors import OptimError

app = typer.Typer(
    cls=Commands,
    help="Any optimizer through one optim= string.",
    epilog="Exit codes: 0 done; 1 it cannot be done, as one sentence says; 2 the command line is wrong; 130 Ctrl-C.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


BRACKET = "\\["
"""An opening bracket in rich's markup."""


def _add(name: str, module: ModuleType, command: Callable[..., None], **settings: Any) -> None:
    # typer reads what stands here as markup
    examples = (f"[cyan]{each.replace('[', BRACKET)}[/cyan]" for each in module.EXAMPLES)
    app.command(name, epilog="\n\n".join(("[bold]Examples[/bold]", *examples)), **settings)(command)


_add("list", list, list.list_command)
_add("info", info, info.info_command)
_add("plan", plan, plan.plan_command)
_add("recommend", recommend, recommend.recommend_command)
_add("compare", compare, compare.compare_command)
_add("translate", translate, translate.translate_command)
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
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        raise SystemExit(app(prog_name="anyoptim", standalone_mode=False))
    except OptimError as error:
        if _debug:
            raise
        print_error(str(error))
        raise SystemExit(1) from None
    except typer.Abort:
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        if is_usage_error(error):
            print_error(usage_sentence(error))
            raise SystemExit(getattr(error, "exit_code", 2)) from None
        if _debug:
            raise
        # what nobody thought of is a sentence, too
        print_error(f"{type(error).__name__}: {error} (--debug shows where)")
        raise SystemExit(1) from None
