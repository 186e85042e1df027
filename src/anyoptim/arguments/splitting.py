"""The items of a text: what stands between its commas."""

from __future__ import annotations

from anyoptim.arguments.limits import refuse_too_many
from anyoptim.errors import OptimArgsError
from anyoptim.text import shortened

_CLOSING = {"(": ")", "[": "]", "{": "}"}


def split_outside_brackets(text: str, label: str) -> list[str]:
    """Split at commas that stand outside brackets and quotes; empty items are dropped."""
    items: list[str] = []
    open_brackets: list[str] = []
    start, quote = 0, ""
    previous = ","
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and previous in ",=([{:":
            quote = character
        elif character in _CLOSING:
            open_brackets.append(_CLOSING[character])
        elif character in _CLOSING.values():
            if not open_brackets or open_brackets.pop() != character:
                raise OptimArgsError(f"{label}: {character!r} closes nothing in {shortened(text[start:].strip())}.")
        elif character == "," and not open_brackets:
            items.append(text[start:position].strip())
            start = position + 1
        if not character.isspace():
            previous = character
    if quote or open_brackets:
        missing = quote or open_brackets[-1]
        raise OptimArgsError(f"{label}: {shortened(text[start:].strip())} lacks its closing {missing!r}.")
    items.append(text[start:].strip())
    refuse_too_many(len(items), "items", label)
    return [item for item in items if item]
