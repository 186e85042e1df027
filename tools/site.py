"""What mkdocs cannot take from docs/ as it stands: a page for each name, the commands, and files beside docs/.

A hook of mkdocs, named in mkdocs.yml. In a page, ``<!-- hyperparameters: NAME -->`` becomes the table of what a name
takes, and a link to a file of the repository outside docs/ leads to a copy of it.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import anyoptim
from anyoptim.arguments.overrides import GROUP_OPTIONS
from anyoptim.arguments.values import type_name
from anyoptim.cli.app import app
from anyoptim.names.lookup import optimizer_info
from anyoptim.names.registry import list_optimizers
from anyoptim.names.spec import OptimizerSpec
from anyoptim.planning.suggestions import suited_arguments
from anyoptim.text import plain

ROOT = Path(__file__).parent.parent
_MARKER = re.compile(r"<!-- hyperparameters: (\S+) -->")
_LINK = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")
_KOREAN: dict[str, str] = json.loads((ROOT / "docs" / "ko" / "hyperparameters.json").read_text())
"""What ``help`` and ranges say, by the English text, for the names of the guide."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated, and the files that pages link to outside docs/."""
    pages = {f"names/{name}.md": name_page(name) for name in names()}
    pages["names/index.md"] = index_page()
    pages["commands.md"] = commands_page()
    pages["changelog.md"] = (ROOT / "CHANGELOG.md").read_text()
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    waiting = [(each.src_uri, each.content_string) for each in files.documentation_pages()]
    while waiting:
        uri, text = waiting.pop()
        for path in filter(None, (outside(uri, match[1]) for match in _LINK.finditer(text))):
            copy = f"repo/{path}"
            if files.get_file_from_path(copy) is None:
                added = File.generated(config, copy, content=(ROOT / path).read_bytes())
                files.append(added)
                if path.endswith(".md"):
                    waiting.append((copy, (ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put tables of hyperparameters and links to copies into the places for them."""
    uri = page.file.src_uri
    korean = uri.startswith("ko/")

    def to_copy(match: re.Match[str]) -> str:
        path = outside(uri, match[1])
        if path is None:
            return match[0]
        return f"]({posixpath.relpath(f'repo/{path}', posixpath.dirname(uri) or '.')}{match[2] or ''})"

    markdown = _LINK.sub(to_copy, markdown)
    return _MARKER.sub(lambda match: hyperparameters(optimizer_info(match[1]), korean=korean), markdown)


def outside(uri: str, target: str) -> str | None:
    """Return the path from the repository's root of a link that leaves docs/, or ``None``.

    Args:
        uri: of the page that it is in; below ``repo/`` it stands for a file of the repository.
        target: what the link says.

    Raises:
        PluginError: there is no such file.
    """
    where = uri.removeprefix("repo/") if uri.startswith("repo/") else f"docs/{uri}"
    if uri.startswith("names/") or not posixpath.splitext(target)[1]:
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(where), target))
    if path.startswith("docs/") and not uri.startswith("repo/"):
        return None
    if not (ROOT / path).is_file():
        raise PluginError(f"{uri} links to {target}, and there is no file {path}")
    return path


# ---------------------------------------------------------------- pages of names


@cache
def names() -> list[str]:
    """Every name of the catalogue; plug-ins that happen to be installed are none of it."""
    return [name for name in list_optimizers() if not name.startswith("example_")]


@cache
def _matrix() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs" / "matrix.json").read_text())["names"]
    return found


def name_page(name: str) -> str:
    """Write what there is to know about a name."""
    spec = optimizer_info(name)
    implementation = spec.default
    facts = {
        "other names": ", ".join(f"`{each}`" for each in spec.aliases),
        "paper": spec.paper,
        "usual learning rates": f"{spec.usual_lr[0]:g} to {spec.usual_lr[1]:g}" if spec.usual_lr else "",
        "what is built": f"`{implementation.class_path}` of {implementation.package}",
        "licence": (implementation.licence or "not stated")
        + ("" if implementation.commercial else ": not for commercial use"),
        "install": f"`{implementation.pip_install}`" if implementation.extra else "",
        "other implementations": ", ".join(
            f"`implementation={each.name}`: `{each.class_path}` of {each.package} ({each.licence or 'not stated'})"
            for each in spec.implementations[1:]
        ),
        "traits": ", ".join(key for key, value in vars(spec.traits).items() if value is True),
    }
    lines = [f"# `{name}`", "", f"{spec.summary}.", "", "| | |", "| --- | --- |"]
    lines += [f"| {key} | {_cell(value)} |" for key, value in facts.items() if value]
    limits = {**implementation.may_fail, **({"training": implementation.unusable} if implementation.unusable else {})}
    if limits:
        lines += ["", "## Limits", "", *(f"- {key}: {reason}" for key, reason in sorted(limits.items()))]
    lines += ["", "## Use it", "", *_use(spec), "", "## Hyperparameters", "", hyperparameters(spec)]
    lines += ["", "Beside these, every optimizer that has param groups takes overrides for single groups:", ""]
    lines += [f"`{', '.join(GROUP_OPTIONS)}` ([targets and groups]({'../' * (name.count('/') + 1)}targets.md))."]
    checks = _matrix().get(name, {}).get("checks", {})
    if checks:
        lines += ["", "## What was measured", "", "| check | verdict | |", "| --- | --- | --- |"]
        lines += [f"| {check} | {verdict} | {_cell(reason)} |" for check, (verdict, reason) in checks.items()]
    return "\n".join(lines) + "\n"


def _use(spec: OptimizerSpec) -> Iterator[str]:
    if spec.is_wrapper:
        yield f'Around any other name: `optim="{spec.name}(adamw_torch)"`.'
        return
    yield "```python"
    yield "TrainingArguments("
    yield '    output_dir="out",'
    yield from (f"    {key}={json.dumps(value)}," for key, value in suited_arguments(spec.name).items())
    yield ")"
    yield "```"


def hyperparameters(spec: OptimizerSpec, *, korean: bool = False) -> str:
    """Write a table of what ``optim_args`` takes."""
    head = ("이름", "타입", "기본값", "뜻") if korean else ("name", "type", "default", "meaning")
    rows = [f"| {' | '.join(head)} |", "| --- | --- | --- | --- |"]
    prefix = f"{spec.name}_" if spec.is_wrapper else ""
    for each in spec.hyperparameters:
        meaning = "; ".join(filter(None, (each.help, str(each.within or ""))))
        if each.scope == "target":
            meaning += "; target modules only"
        if korean:
            meaning = "; ".join(_in_korean(part) for part in meaning.split("; "))
        cells = (f"`{prefix}{each.name}`", type_name(each.type), f"`{plain(each.default)}`", meaning)
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows)


def _in_korean(text: str) -> str:
    own, of, member = text.partition(", of ")
    if of and own in _KOREAN:
        return f"{_KOREAN[own]} ({member})"
    if text not in _KOREAN:
        raise PluginError(f"docs/ko/hyperparameters.json has no translation of {text!r}")
    return _KOREAN[text]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def index_page() -> str:
    """Write a table of all names, by package."""
    packages: dict[str, list[str]] = {}
    for name in names():
        packages.setdefault(optimizer_info(name).package, []).append(name)
    lines = [
        "# Every name",
        "",
        f"{len(names())} names of anyoptim {anyoptim.__version__}, by the package behind each.",
    ]
    for package, members in sorted(packages.items(), key=lambda item: (item[0] != "anyoptim", item[0].lower())):
        licence = optimizer_info(members[0]).licence or "licence not stated"
        title = "anyoptim, engines of our own" if package == "anyoptim" else package
        lines += ["", f"## {title}", "", f"{licence}.", "", "| name | what it is |", "| --- | --- |"]
        lines += [f"| [`{each}`]({each}.md) | {_cell(optimizer_info(each).summary)} |" for each in members]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- commands


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
                lines.append(f"| {label} | {_cell(each.help or '')} |")
        examples = re.findall(r"\[cyan\](.*?)\[/cyan\]", command.epilog or "")
        lines += ["", "```bash", *(each.replace("\\[", "[") for each in examples), "```", ""]
    return "\n".join(lines)
