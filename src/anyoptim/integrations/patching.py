"""Replacing attributes of other packages so that they can be put back."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any


def replace(undo: ExitStack, owner: Any, name: str, value: object) -> None:
    """Set an attribute of a class, a module or an object, and let ``undo`` restore exactly what was there."""
    held = vars(owner)
    if name in held:
        undo.callback(setattr, owner, name, held[name])
    else:  # inherited, or a method of an object's class
        undo.callback(delattr, owner, name)
    setattr(owner, name, value)
