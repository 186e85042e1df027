"""Values that no step could be right with, refused as torch refuses them: out of the ranges that specs give."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from anyoptim.names.hyperparameters import Interval
from anyoptim.names.registry import ranges_of


def refuse_out_of_range(engine: type, values: Mapping[str, Any]) -> None:
    """Raise for a value that an engine does not take; one that is made through a plan was checked before.

    Args:
        engine: a class of ours, or of a user that is made from one.
        values: by the names that its constructor has for them, such as those of a group.

    Raises:
        ValueError: one of them is out of range.
    """
    for name, within in _ranges(engine).items():
        number = within.outside(values.get(name))
        if number is not None:
            raise ValueError(f"{engine.__name__}: {name} must be {within}, not {number}.")


@cache
def _ranges(engine: type) -> Mapping[str, Interval]:
    """Return the ranges of an engine, or of the engine that it is made from."""
    found = (ranges_of(f"{each.__module__}:{each.__qualname__}") for each in engine.__mro__)
    return next(filter(None, found), {})
