"""How a check says what it found."""

from __future__ import annotations

ENOUGH = 12
"""Steps after which weights have moved: RAdam and AdaShift leave them alone at first."""


class NotApplicable(Exception):  # no error: there is nothing to check
    """There is nothing to check, for the reason given."""


class Failure(AssertionError):
    """A promise is not kept, as the message says."""


def expect(kept: bool, otherwise: str) -> None:
    """Raise a :class:`Failure` unless a promise is kept."""
    if not kept:
        raise Failure(otherwise)
