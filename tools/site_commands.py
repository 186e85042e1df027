"""The page of commands."""

from __future__ import annotations

import re
from typing import Any

import typer
from site_names import cell

from anyoptim.cli.app import app


def commands_page() -> str:
    """Write what ``--help`` says of every command."""
    group: Any = typer.main.get_command(app)
    lines = ["# Commands", "", f"{group.help}", "", f"{group.epilog}", ""]
    lines += ["`anyoptim --install-completion` completes commands, options and names in your shell;"]
    lines += ["`anyoptim --debug COMMAND …` shows the traceback of an error; piped output has no colours.", ""]
    for name, command in group.commands.items():
        labels = {each.name: (each.metavar or each.name).upper() for each in command.params}
        places = " ".join(labels[each.name] for each in command.params if each.param_type_name == "argument")
        lines += [f"## {name}", "", command.help or "", "", f"`anyoptim {name} [OPTIONS] {places}`", ""]
        lines += ["| | |", "| --- | --- |"]
        for each in command.params:
            if each.name != "help":
                is_option = each.param_type_name == "option"
                label = ", ".join(f"`{one}`" for one in each.opts) if is_option else f"`{labels[each.name]}`"
                lines.append(f"| {label} | {cell(each.help or '')} |")
        examples = re.findall(r"\[cyan\](.*?)\[/cyan\]", command.epilog or "")
        lines += ["", "```bash", *(each.replace("\\[", "[") for each in examples), "```", ""]
    return "\n".join(lines)
