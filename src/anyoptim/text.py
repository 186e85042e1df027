"""How values are written for a person and for JSON; imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from anyoptim.errors import OptimError


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


def shortened(text: str, limit: int = 80) -> str:
    """Return a text in quotes, cut where it is too long to be read in a message."""
    return repr(text if len(text) <= limit else f"{text[:limit]}…")


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
