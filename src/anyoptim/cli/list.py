"""``anyoptim list``: the names, with package, licence and summary."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from anyoptim.cli.output import AsJson, print_json, print_rich
from anyoptim.errors import OptimError, did_you_mean
from anyoptim.names.registry import list_optimizers, listed
from anyoptim.names.spec import OptimizerSpec

EXAMPLES = ("anyoptim list '*lion*'", "anyoptim list --package timm --installed", "anyoptim list --commercial --json")


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
        return print_json([spec_summary(spec) for spec in specs])
    if not specs:
        packages = {spec.package for spec in map(listed, list_optimizers())}
        if package is not None and package not in packages:
            raise OptimError(f"No optimizer is of a package {package!r}.{did_you_mean(package, packages)}")
        origin = f" in package {package!r}" if package else ""
        close = did_you_mean(pattern, list_optimizers())
        raise OptimError(f"No optimizer matches {pattern!r}{origin}.{close} `anyoptim list` shows every name.")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("name", "package", "licence", "summary"):
        table.add_column(column, no_wrap=column != "summary")
    for spec in specs:
        missing = "" if spec.installed else " (not installed)"
        table.add_row(
            spec.name, spec.package + missing, spec.licence, spec.summary, style="" if spec.installed else "dim"
        )
    print_rich(table)


def spec_summary(spec: OptimizerSpec) -> dict[str, object]:
    """Return what a list says of a name, as plain values."""
    return {
        "name": spec.name,
        "aliases": list(spec.aliases),
        "package": spec.package,
        "licence": spec.licence,
        "installed": spec.installed,
        "summary": spec.summary,
    }
