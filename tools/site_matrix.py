"""The matrix in the site: names lead to their pages, what is not ✓ says why; docs/javascripts/matrix.js filters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

from site_search import EXCLUDE

MATRIX = Path(__file__).parent.parent / "docs" / "matrix.json"
_TABLE = re.compile(r"<table>\s*<thead>(?P<head>.*?)</thead>(?P<body>.*?)</table>", re.DOTALL)
_HEAD = re.compile(r"<th>(.*?)</th>")
_ROW = re.compile(
    r"<tr>\s*<td><code>(?P<name>.*?)</code></td>\s*<td>(?P<package>.*?)</td>(?P<cells>.*?)</tr>", re.DOTALL
)
_CELL = re.compile(r"<td>(.*?)</td>")


def with_filters(html: str) -> str:
    """Put the page's table into a box of its own, in which docs/stylesheets/matrix.css keeps names and checks visible.

    Args:
        html: the page, as made of docs/matrix.md.
    """
    names = json.loads(MATRIX.read_text(encoding="utf-8"))["names"]

    def boxed(found: re.Match[str]) -> str:
        columns = _HEAD.findall(found["head"])
        head = "".join(f'<th scope="col"><span>{each}</span></th>' for each in columns)
        body = _ROW.sub(lambda row: _row(row, columns[2:], names[row["name"]]["checks"]), found["body"])
        table = f'<table class="names"><thead><tr>{head}</tr></thead>{body}</table>'
        return f'<div class="matrix" tabindex="0" {EXCLUDE}>{table}</div>'

    unlisted = html.replace("<h3 ", f"<h3 {EXCLUDE} ")  # reasons: search would find all names in them
    return _TABLE.sub(boxed, unlisted, count=1)


def _row(row: re.Match[str], checks: list[str], verdicts: Mapping[str, tuple[str, str]]) -> str:
    cells = [f'<th scope="row"><a href="names/{row["name"]}.html"><code>{row["name"]}</code></a></th>']
    cells.append(f"<td>{row['package']}</td>")
    for check, sign in zip(checks, _CELL.findall(row["cells"]), strict=True):
        status, reason = verdicts[check]
        why = "" if status == "pass" else f' title="{escape(f"{check}: {reason}")}"'
        cells.append(f"<td{why}>{sign}</td>")
    return f"<tr>{''.join(cells)}</tr>"
