"""How much of what somebody gives is read."""

from __future__ import annotations

from collections.abc import Mapping

from anyoptim.errors import OptimArgsError, OptimError
from anyoptim.text import LONGEST_TEXT

DEEPEST = 20
"""Lists inside of each other."""

MOST = 1_000
"""Patterns, or other items, of one setting."""


def refuse_excess(value: object, label: str, kind: type[OptimError] = OptimArgsError) -> None:
    """Raise for a text, a list or a mapping that is longer or deeper than a setting can be.

    Args:
        value: any; of other objects nothing is asked.
        label: what messages start with.
        kind: the error that is raised.

    Raises:
        OptimError: of that kind.
    """
    left = LONGEST_TEXT
    waiting: list[tuple[object, int]] = [(value, 0)]
    while waiting:
        each, depth = waiting.pop()
        parts: list[object] = []
        if isinstance(each, str):
            left -= len(each)
        elif isinstance(each, (list, tuple, set, frozenset, Mapping)):
            left -= len(each)
            if left >= 0:
                parts = [one for pair in each.items() for one in pair] if isinstance(each, Mapping) else list(each)
        if left < 0:
            what = f"has {len(value)} characters" if isinstance(value, str) else "is too long"
            raise kind(f"{label} {what}; up to {LONGEST_TEXT} characters are read.")
        if parts and depth > DEEPEST:
            raise kind(f"{label} is nested more than {DEEPEST} deep; no setting is.")
        waiting += [(part, depth + 1) for part in parts]


def refuse_too_many(count: int, noun: str, label: str, kind: type[OptimError] = OptimArgsError) -> None:
    """Raise where one setting has more items, which a noun names, than anybody means."""
    if count > MOST:
        raise kind(f"{label} has {count} {noun}; up to {MOST} are read.")
