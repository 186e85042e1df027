"""How every command answers: on stdout JSON, columns or rich text, an error as one line on stderr.

A text is written as it is: a console of ours reads no markup, no emoji, and colours nothing by its look, since names,
patterns, paths and messages may hold brackets and colons. What is styled is a ``rich.text.Text``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from anyoptim.errors import OptimError
from anyoptim.text import said

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""

WIDE = 160
"""Columns of what is piped, so that nothing is cut."""


def console(to: IO[str] | None = None) -> Console:
    """Return the console of a stream, stdout if ``None``; piped output is wide and has no colours."""
    from rich.console import Console

    def made(width: int | None = None) -> Console:
        return Console(file=to, width=width, markup=False, emoji=False, highlight=False)

    return made() if made().is_terminal else made(WIDE)


def print_json(value: object) -> None:
    """Write JSON to stdout, in colour nowhere."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_rich(value: RenderableType, to: IO[str] | None = None, *, whole_lines: bool = False) -> None:
    """Write to stdout, or to another stream.

    Args:
        value: what is written.
        to: the stream; stdout if ``None``.
        whole_lines: no line is broken, so that it can be copied.
    """
    console(to).print(value, soft_wrap=whole_lines)


def print_note(sentence: str) -> None:
    """Write to stderr what is beside the answer, as one line however long it is."""
    from rich.text import Text

    console(sys.stderr).print(Text(sentence, style="dim"), soft_wrap=True)


def write_file(path: Path, text: str) -> None:
    """Write a file that was asked for.

    Raises:
        OptimError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptimError(f"{path} cannot be written ({error.strerror or said(error)}); give another path.") from error


def print_error(sentence: str) -> None:
    """Write what is wrong to stderr, as one line however long it is."""
    from rich.text import Text

    console(sys.stderr).print(Text.assemble(("error: ", "bold red"), sentence), soft_wrap=True)


def print_columns(titles: Sequence[str], rows: Sequence[Sequence[str]], dim: Sequence[bool]) -> None:
    """Write a long table to stdout: one line a row where it is piped, the last column wrapped in a terminal.

    A table of rich's takes a second for some hundred rows.

    Args:
        titles: of the columns.
        rows: the cells of each.
        dim: for each row, whether it is of less interest.
    """
    rows = [[" ".join(cell.split()) for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in (titles, *rows)) for index in range(len(titles) - 1)]
    lines = ["  ".join([*map(str.ljust, row[:-1], widths), row[-1]]) for row in (titles, *rows)]
    if not sys.stdout.isatty():
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        return
    import textwrap

    from rich.text import Text

    screen = console()
    indent = sum(widths) + 2 * len(widths)
    room = max(screen.width, indent + 20)
    written = Text()
    for line, style in zip(lines, ["bold", *("dim" if each else "" for each in dim)], strict=True):
        text = textwrap.fill(line[indent:], room - indent).replace("\n", "\n" + " " * indent)
        written.append(f"{line[:indent]}{text}\n", style)
    screen.print(written, soft_wrap=True, end="")
