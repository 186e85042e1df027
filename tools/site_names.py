"""The pages of names: one for each, and the table of all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from site_evidence import evidence_lines
from site_search import EXCLUDE

import anyoptim
from anyoptim.arguments.overrides import GROUP_OPTIONS
from anyoptim.arguments.values import type_name
from anyoptim.names.hyperparameters import MONITOR
from anyoptim.names.lookup import optimizer_info
from anyoptim.names.registry import list_optimizers
from anyoptim.names.spec import OptimizerSpec
from anyoptim.planning.suggestions import suited_arguments
from anyoptim.text import plain

DOCS = Path(__file__).parent.parent / "docs"
_KOREAN: dict[str, str] = json.loads((DOCS / "ko" / "hyperparameters.json").read_text())
"""What ``help`` and ranges say, by the English text, for the names of the guide."""
_PAPER = re.compile(r"arXiv (?P<arxiv>\d{4}\.\d{4,5})|https?://(?P<page>[^\s,]+)")


@cache
def names() -> list[str]:
    """Every name of the catalogue; plug-ins that happen to be installed are none of it."""
    return [name for name in list_optimizers() if not name.startswith("example_")]


@cache
def _matrix() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "matrix.json").read_text())["names"]
    return found


@cache
def _state_bytes() -> dict[str, float]:
    found: dict[str, float] = json.loads((DOCS / "state_bytes.json").read_text())
    return found


def name_page(name: str) -> str:
    """Write what there is to know about a name."""
    spec = optimizer_info(name)
    implementation = spec.default
    facts = {
        "other names": ", ".join(f"`{each}`" for each in spec.aliases),
        "paper": linked(spec.paper),
        "usual `lr`": f"{spec.usual_lr[0]:g} to {spec.usual_lr[1]:g}" if spec.usual_lr else "",
        "what is built": f"`{implementation.class_path}` of {implementation.package}",
        "licence": (implementation.licence or "not stated")
        + ("" if implementation.commercial else ": not for commercial use"),
        "install": f"`{implementation.pip_install}`" if implementation.extra else "",
        "other implementations": ", ".join(
            f"`implementation={each.name}`: `{each.class_path}` of {each.package} ({each.licence or 'not stated'})"
            for each in spec.implementations[1:]
        ),
        "traits": ", ".join(key for key, value in vars(spec.traits).items() if value is True),
        "state": _state(name),
    }
    lines = [f"# `{name}`", "", f"{spec.summary}.", "", "| | |", "| --- | --- |"]
    lines += [f"| {key} | {cell(value)} |" for key, value in facts.items() if value]
    limits = {**implementation.may_fail, **({"training": implementation.unusable} if implementation.unusable else {})}
    if limits:
        lines += ["", _heading("Limits"), "", *(f"- {key}: {reason}" for key, reason in sorted(limits.items()))]
    lines += ["", _heading("Use it"), "", *_use(spec), ""]
    if not spec.is_wrapper:
        lines += [
            _heading("How it did"),
            "",
            *(each.replace("](../", f"]({_up(name)}") for each in evidence_lines(name)),
            "",
        ]
    lines += [_heading("Hyperparameters"), "", hyperparameters(spec)]
    lines += ["", "Beside these, every optimizer that has param groups takes overrides for single groups:", ""]
    lines += [f"`{', '.join(GROUP_OPTIONS)}` ([targets and groups]({_up(name)}targets.md)).", ""]
    lines += [f"And every optimizer takes `{MONITOR.name}`: {MONITOR.help} ([monitor]({_up(name)}monitor.md))."]
    checks = _matrix().get(name, {}).get("checks", {})
    if checks:
        lines += ["", _heading("What was measured"), "", "| check | verdict | |", "| --- | --- | --- |"]
        lines += [f"| {check} | {verdict} | {cell(reason)} |" for check, (verdict, reason) in checks.items()]
    return "\n".join(lines) + "\n"


def _up(name: str) -> str:
    """The way from a name's page to the pages."""
    return "../" * (name.count("/") + 1)


def _state(name: str) -> str:
    """Write how many bytes of state a parameter takes, where that is known."""
    found = _state_bytes().get(name)
    if found is None:
        return ""
    adamw = _state_bytes()["adamw_torch"]
    beside = "" if name == "adamw_torch" else f"; AdamW's takes {adamw:g}"
    return f"{found:g} bytes for each parameter of a small Llama in float32{beside}"


def _heading(text: str) -> str:
    """A heading over what hundreds of names have in common, in which search would find all of them."""
    return f"## {text} {{ {EXCLUDE} }}"


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
        rows.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join(rows)


def _in_korean(text: str) -> str:
    own, of, member = text.partition(", of ")
    if of and own in _KOREAN:
        return f"{_KOREAN[own]} ({member})"
    if text not in _KOREAN:
        raise PluginError(f"docs/ko/hyperparameters.json has no translation of {text!r}")
    return _KOREAN[text]


def cell(text: str) -> str:
    """Write a text so that it fits into a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def linked(paper: str) -> str:
    """Make links of the arXiv numbers and the addresses in what a spec says of a paper."""
    return _PAPER.sub(
        lambda match: (
            f"[{match[0]}](https://arxiv.org/abs/{match['arxiv']})"
            if match["arxiv"]
            else f"[{match['page']}]({match[0]})"
        ),
        paper,
    )


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
        lines += ["", f"## {title}", "", f"{licence}.", "", "| name | what it is | paper |", "| --- | --- | --- |"]
        for each in members:
            spec = optimizer_info(each)
            lines.append(f"| [`{each}`]({each}.md) | {cell(spec.summary)} | {cell(linked(spec.paper))} |")
    return "\n".join(lines) + "\n"
