"""The report: a page for people and the same as JSON."""

from __future__ import annotations

import datetime
import json
import platform
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import anyoptim
from benchmarks.gpu.section import Row, Section

_PACKAGES = ("transformers", "accelerate", "bitsandbytes", "torchao", "flashoptim", "triton")


def write(folder: Path, device: str, sections: Sequence[Section]) -> tuple[Path, Path]:
    """Write ``gpu-<device>.md`` and ``.json``, and return where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"gpu-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}"
    page, data = folder / f"{stem}.md", folder / f"{stem}.json"
    found = facts(device)
    page.write_text(markdown(found, sections), encoding="utf-8")
    data.write_text(json.dumps({**found, "sections": [asdict(each) for each in sections]}, indent=1), encoding="utf-8")
    return page, data


def facts(device: str) -> dict[str, str]:
    """Return what a reader has to know of the machine."""
    found = {
        "device": device,
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "anyoptim": anyoptim.__version__,
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def markdown(found: dict[str, str], sections: Sequence[Section]) -> str:
    """Return the page."""
    rest = ", ".join(f"{key} {value}" for key, value in found.items() if key not in ("device", "date"))
    lines = [f"# On a GPU: {found['device']}", "", f"`make gpu`, {found['date']}, {rest}.", ""]
    for each in sections:
        counts = Counter(row.verdict for row in each.rows)
        summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        lines += [f"## {each.title[0].upper()}{each.title[1:]}", "", each.about, "", f"{summary}.", ""]
        lines += [*_table(each.rows), ""]
    return "\n".join(lines)


def _table(rows: Sequence[Row]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row.numbers))
    lines = [
        f"| {' | '.join(('name', 'verdict', *columns, 'evidence'))} |",
        f"| {' | '.join(('---', '---', *('---:' for _ in columns), '---'))} |",
    ]
    for row in rows:
        numbers = [_number(row.numbers[key]) if key in row.numbers else "" for key in columns]
        verdict = f"**{row.verdict}**" if row.verdict in ("fail", "not run") else row.verdict
        lines.append(f"| {' | '.join((f'`{row.name}`', verdict, *numbers, row.evidence.replace('|', '/')))} |")
    return lines


def _number(value: float) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
