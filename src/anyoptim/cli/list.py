"""``anyoptim list``: the names, with package, licence and summary."""

from __future__ import annotations

from typing import Annotated, TypedDict

import typer

from anyoptim.cli.output import print_columns, print_json
from anyoptim.cli.parameters import AsJson
from anyoptim.errors import OptimError, did_you_mean
from anyoptim.names.registry import list_optimizers, listed
from anyoptim.names.spec import OptimizerSpec

EXAMPLES = ("anyoptim list '*lion*'", "anyoptim list --package timm --installed", "anyoptim list --licence MIT --json")


def list_command(
    pattern: Annotated[str, typer.Argument(help="Wildcards, such as 'schedule_free*'.")] = "*",
    package: Annotated[str | None, typer.Option(help="Only what this pip package backs.")] = None,
    installed: Annotated[bool, typer.Option("--installed", help="Only what is installed here.")] = False,
    commercial: Annotated[bool, typer.Option("--commercial", help="Only what may be used commercially.")] = False,
    licence: Annotated[str, typer.Option(help="Only what is under it: MIT, 'BSD*'.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List the registered optimizers."""
    names = list_optimizers(
        pattern, package=package, installed=installed or None, commercial=commercial or None, licence=licence
    )
    found = [spec_summary(listed(name)) for name in names]
    if as_json:
        print_json(found)
    if not found:
        raise OptimError(_nothing(pattern, package, licence))
    if not as_json:
        print_columns(
            ("name", "package", "licence", "summary"),
            [
                (
                    each["name"],
                    each["package"] + ("" if each["installed"] else " (not installed)"),
                    each["licence"],
                    each["summary"],
                )
                for each in found
            ],
            dim=[not each["installed"] for each in found],
        )


def _nothing(pattern: str, package: str | None, licence: str) -> str:
    every = list_optimizers()
    packages = {listed(name).package for name in every}
    if package is not None and package not in packages:
        return f"No optimizer is of a package {package!r}.{did_you_mean(package, packages)}"
    if not list_optimizers(licence=licence):
        licences = sorted({listed(name).licence for name in every} - {""})
        return f"No optimizer is under {licence!r}.{did_you_mean(licence, licences)} There are {', '.join(licences)}."
    origin = f" in package {package!r}" if package else ""
    under = "" if licence == "*" else f" under {licence}"
    close = did_you_mean(pattern, every)
    return f"No optimizer matches {pattern!r}{origin}{under}.{close} `anyoptim list` shows every name."


class Summary(TypedDict):
    """What a list says of a name, as plain values."""

    name: str
    aliases: list[str]
    package: str
    licence: str
    installed: bool
    summary: str


def spec_summary(spec: OptimizerSpec) -> Summary:
    """Return what a list says of a name, as plain values."""
    return {
        "name": spec.name,
        "aliases": list(spec.aliases),
        "package": spec.package,
        "licence": spec.licence,
        "installed": spec.installed,
        "summary": spec.summary,
    }
