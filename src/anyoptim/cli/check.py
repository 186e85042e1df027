"""``anyoptim check``: the conformance kit on one optimizer."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from anyoptim.cli.output import AsJson, Name, print_json, print_rich
from anyoptim.errors import OptimError, did_you_mean

EXAMPLES = ("anyoptim check sgd --check builds --check memory",)

_STATUS_STYLES = {"pass": "green", "fail": "bold red", "limit": "yellow", "n/a": "dim"}


def check_command(
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
