"""How values are written for a person and for JSON; imports nothing heavy."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from anyoptim.errors import OptimError

LONGEST_TEXT = 100_000
"""Characters of a text that is read; what is longer is a file that went astray."""

LONGEST_QUOTE = 200
"""Characters of what somebody gave that a message shows."""


def format_bytes(count: int | None) -> str:
    """Write a number of bytes for a person, in binary units."""
    if count is None:
        return "unknown"
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.{4 if size >= 1000 else 3}g} {unit}" if unit != "B" else f"{count} B"
        size /= 1024
    return f"{size:.3g} TiB"


_UNITS = {"b": 1} | {
    f"{letter}{rest}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for rest, base in (("", 1024), ("ib", 1024), ("b", 1000))
}


def read_bytes(text: str) -> int:
    """Read a number of bytes as a person writes it: ``24GiB``, ``24G`` (the same), ``24GB`` (24e9).

    Raises:
        OptimError: it is none, or a number without a unit.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text, flags=re.ASCII)
    if found is not None and not found[2]:
        raise OptimError(f"{text.strip()!r} is a number without a unit; write {text.strip()}GiB.")
    if found is None or found[2].lower() not in _UNITS:
        raise OptimError(f"{text!r} is no amount of memory; write it as 24GiB or 80GB.")
    return int(float(found[1]) * _UNITS[found[2].lower()])


class _Short(reprlib.Repr):
    """The repr of any object, which is never built at its whole length."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = LONGEST_QUOTE

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= 200 else "a number of so many digits"


def shortened(value: object) -> str:
    """Return how a message quotes what somebody gave: its repr, cut where it is too long to be read."""
    if isinstance(value, str):
        quoted = repr(value if len(value) <= LONGEST_QUOTE else f"{value[:LONGEST_QUOTE]}…")
    else:
        quoted = _Short().repr(value)
    return quoted if len(quoted) <= LONGEST_QUOTE + 3 else f"{quoted[:LONGEST_QUOTE]}…"


def said(error: BaseException) -> str:
    """Return what a foreign error says, in one line that can be read, or its kind where it says nothing."""
    try:
        words = " ".join(str(error)[: 10 * LONGEST_QUOTE].split())
    except Exception:  # a stranger's __str__ may raise anything
        words = ""
    words = words or type(error).__name__
    return words if len(words) <= LONGEST_QUOTE else f"{words[:LONGEST_QUOTE]}…"


def _whole(digits: str) -> float:
    return int(digits) if len(digits) <= 1_000 else float(digits)  # the longer take Python long, or are refused by it


def read_json(text: str, of_pairs: Callable[[list[tuple[str, object]]], object] | None = None) -> object:
    """Read JSON.

    Args:
        text: any.
        of_pairs: makes of the keys and values of an object what stands for it.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=of_pairs, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def plain(value: object) -> object:
    """Return ``value`` if JSON can hold it, else its text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if getattr(value, "shape", None) == ():  # a learning rate that is a tensor
        return value.item()  # type: ignore[attr-defined]  # torch is not imported here
    return str(value)


def collapse(names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Write layers as ranges: ``model.layers.{0..31}.mlp.up_proj.weight``, with the names each stands for."""
    templates: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        template = tuple("" if part.isdigit() else part for part in name.split("."))
        templates.setdefault(template, []).append(name)
    for template, members in templates.items():
        columns = zip(*(member.split(".") for member in members), strict=True)
        parts = [
            part or _range({int(number) for number in column}) for part, column in zip(template, columns, strict=True)
        ]
        yield ".".join(parts), members


def _range(found: set[int]) -> str:
    numbers = sorted(found)
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}..{numbers[-1]}}}"
    return f"{{{','.join(map(str, numbers))}}}"
