"""``anyoptim doctor``: what is here, what works with it, and what to install for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from anyoptim.cli.output import print_json, print_rich
from anyoptim.cli.parameters import AsJson
from anyoptim.names.packages import load

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from anyoptim.doctor import Checkup

EXAMPLES = ("anyoptim doctor", "anyoptim doctor --json")


def doctor_command(as_json: AsJson = False) -> None:
    """Show versions, devices, which names can be built here, and whether enable() fits; exit code 1 if it does not."""
    load("torch", needed_by="anyoptim doctor", package="torch", install="pip install torch")
    from anyoptim.doctor import examine

    found = examine()
    if as_json:
        print_json(found.to_dict())
    else:
        print_rich(_report(found))
    if found.enable is not None:
        raise typer.Exit(1)


def _report(found: Checkup) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    packages = _grid()
    for each in found.packages:
        state = each.version or f"not installed: {each.install}"
        packages.add_row(
            each.name, Text(state, style="" if each.version else "dim"), f"{each.names} name{'s'[: each.names > 1]}"
        )
    elsewhere = _grid()
    for reason, names in sorted(found.elsewhere.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(names[:3]) + (f", … ({len(names)})" if len(names) > 3 else "")
        elsewhere.add_row(shown, Text(reason, style="yellow"))
    fits = Text("enable() fits this transformers", style="green")
    return Group(
        _section("versions", _rows({name: each or "not installed" for name, each in found.versions.items()})),
        _section("devices", _rows(found.devices)),
        _section("packages behind the names", packages),
        _section(f"{found.buildable} names can be built here; these cannot", elsewhere),
        fits if found.enable is None else Text(found.enable, style="bold red"),
    )


def _grid() -> Table:
    from rich.table import Table

    return Table(box=None, padding=(0, 2, 0, 0), show_header=False)


def _rows(values: dict[str, str]) -> Table:
    table = _grid()
    for name, value in values.items():
        table.add_row(name, value)
    return table


def _section(title: str, table: Table) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    return Group(Text(title, style="bold"), table, "") if table.row_count else Text(f"{title}: none", style="bold")
