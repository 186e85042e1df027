"""Replacing functions of other packages so that they can be put back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any


def replace(undo: ExitStack, owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Put a function in the place of one of a class, a module or an object, until ``undo`` closes.

    Exactly what was there comes back. Where somebody else has replaced ours meanwhile, theirs stays, and what they
    call is the function that was there before.

    Args:
        undo: what ends it.
        owner: the class, module or object.
        name: of the attribute, a function.
        function: takes what the attribute takes when it is got from ``owner``: of a class, an object first.
    """
    held, original = vars(owner), getattr(owner, name)
    before = held.get(name)
    undone = False

    @functools.wraps(function)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs) if undone else function(*args, **kwargs)

    ours = staticmethod(replaced) if isinstance(before, staticmethod) else replaced
    setattr(owner, name, ours)

    def restore() -> None:
        nonlocal undone
        undone = True
        if vars(owner).get(name) is not ours:
            return
        if before is None:  # inherited, or a method of an object's class
            delattr(owner, name)
        else:
            setattr(owner, name, before)

    undo.callback(restore)
