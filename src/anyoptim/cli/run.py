"""``anyoptim run``: any Trainer-based script or command with every name enabled, without editing it."""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
import traceback
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import TracebackType
from typing import Annotated

import typer

from anyoptim.errors import OptimError, did_you_mean
from anyoptim.integrations.on_import import enable_in_children, enable_on_import

EXAMPLES = (
    "anyoptim run train.py --optim soap --help",
    "anyoptim run trl sft --optim muon --help",
    "accelerate launch -m anyoptim run train.py --optim soap --help",
)
SETTINGS = {"allow_interspersed_args": False, "ignore_unknown_options": True}
"""What stands behind the script is the script's."""


def run_command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="SCRIPT|COMMAND|MODULE", help="A Python file, an installed command, or a module with -m."
        ),
    ],
    arguments: Annotated[list[str] | None, typer.Argument(help="What it gets.")] = None,
    is_module: Annotated[bool, typer.Option("-m", help="Run a module, as python -m does.")] = False,
) -> None:
    """Run a script or module with every optimizer's name enabled, also in the processes that it starts."""
    is_file = not is_module and Path(target).is_file()
    command = None if is_file or (is_module and _runs(target)) else _command(target, is_module)
    sys.argv = [target, *(arguments or ())]
    sys.path[0] = str(Path(target).resolve().parent) if is_file else os.getcwd()
    enable_in_children()
    enable_on_import()
    try:
        if command is not None:
            raise SystemExit(command.load()())
        if is_module:
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(target, run_name="__main__")
    except OptimError:
        raise
    except Exception as error:  # whatever the script raises
        traceback.print_exception(type(error), error, _own_part(error.__traceback__))
        raise SystemExit(1) from None


def _runs(module: str) -> bool:
    """Whether ``python -m`` would run a module: a file, or a package with a ``__main__``."""
    sys.path.insert(1, os.getcwd())
    try:
        found = importlib.util.find_spec(module)
        if found is not None and found.submodule_search_locations is not None:
            found = importlib.util.find_spec(f"{module}.__main__")
    except ModuleNotFoundError:
        found = None
    finally:
        del sys.path[1]
    return found is not None


def _command(target: str, is_module: bool) -> EntryPoint:
    """Find an installed command by its name, or, for ``-m``, by the module that its function is in.

    Raises:
        OptimError: there is none.
    """
    for each in entry_points(group="console_scripts"):
        if target == (each.module if is_module else each.name):
            return each
    if is_module:
        raise OptimError(f"There is no module {target!r} to run here; install its package, or run a script without -m.")
    path = Path(target)
    folder = path.parent if path.parent.is_dir() else Path()
    commands = [each.name for each in entry_points(group="console_scripts")]
    close = did_you_mean(target, [*map(str, folder.glob("*.py")), *commands], count=1)
    as_module = "" if close or path.suffix == ".py" else f" For a module, write anyoptim run -m {target}."
    raise OptimError(f"There is no script or command {target!r}.{close}{as_module}")


def _own_part(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that is the script's own."""
    ours = (__file__, runpy.__file__)
    while trace is not None and (trace.tb_frame.f_code.co_filename in ours or "frozen runpy" in str(trace.tb_frame)):
        trace = trace.tb_next
    return trace
