"""``anyoptim check``: the conformance kit on one optimizer."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from anyoptim.cli.output import INTERRUPTED, print_json, print_rich
from anyoptim.cli.parameters import AsJson, Name
from anyoptim.errors import OptimError, did_you_mean
from anyoptim.names.lookup import optimizer_info

if TYPE_CHECKING:
    from anyoptim.testing import Verdict

EXAMPLES = ("anyoptim check sgd --check builds --check memory",)

_STATUS_STYLES = {"pass": "green", "fail": "bold red", "limit": "yellow", "n/a": "dim"}


def check_command(
    name: Name,
    checks: Annotated[list[str] | None, typer.Option("--check", help="Only this check; repeat it.")] = None,
    optim_args: Annotated[str | None, typer.Option(help="What it needs, as in TrainingArguments.")] = None,
    device: Annotated[str, typer.Option(help="Where it trains: cpu, cuda, or another kind that torch has.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Run the conformance kit on an optimizer; exit code 1 if a promise is not kept."""
    from rich.text import Text

    from anyoptim.testing import CHECKS, check_optimizer

    unknown = [each for each in checks or () if each not in CHECKS]
    if unknown:
        raise OptimError(f"No check is called {unknown[0]!r}.{did_you_mean(unknown[0], CHECKS)}")
    found: list[Verdict] = []
    width = max(map(len, checks or CHECKS))

    def tell(verdict: Verdict) -> None:
        found.append(verdict)
        if not as_json:
            line = Text.assemble((f"{verdict.status:6}", _STATUS_STYLES[verdict.status]), f"{verdict.check:{width}}  ")
            print_rich(line.append(verdict.reason), to=answer)

    answer = sys.stdout
    fields = {"optim_args": optim_args} if optim_args else {}
    finished = True
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what packages print is no part of the answer
            check_optimizer(name, checks=checks or None, device=device, on_verdict=tell, **fields)
    except KeyboardInterrupt:
        finished = False
    if as_json:
        print_json({"name": optimizer_info(name).name, "verdicts": [vars(each) for each in found]})
    if not finished:
        raise typer.Exit(INTERRUPTED)
    if any(each.status == "fail" for each in found):
        raise typer.Exit(1)
