"""How names are written: the one spelling of each, and the closest ones to a name that nobody knows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

from anyoptim.errors import UnknownOptimizerError, did_you_mean
from anyoptim.text import shortened

WRAPPED = re.compile(r"(?P<wrapper>[^()+]+)\((?P<inner>.+)\)", re.DOTALL)
_DEEPEST = 50
"""No name has more wrappers, as each may be there once."""


def normalise(name: str) -> str:
    """Return the registered spelling: lower snake case; a class path ``module:Class`` stays as it is.

    Args:
        name: text, or a member of an enum of names, such as ``OptimizerNames``, which stands for its value.

    Raises:
        UnknownOptimizerError: it is nested more deeply than a name can be.
    """
    name = _text(name).strip()
    if name.count("(") > _DEEPEST:
        raise UnknownOptimizerError(
            f"{shortened(name)} is nested {name.count('(')} deep; each wrapper goes around an optimizer once."
        )
    wrapped = WRAPPED.fullmatch(name)
    if wrapped:
        return f"{normalise(wrapped['wrapper'])}({normalise(wrapped['inner'])})"
    if "+" in name:
        return "+".join(normalise(part) for part in name.split("+"))
    return name if ":" in name else re.sub(r"[-\s]+", "_", name.lower())


def unknown(name: str, known: Iterable[str]) -> UnknownOptimizerError:
    """Return the error for a name that nobody knows, with the closest of ``known``."""
    name = _text(name)
    module, dot, attribute = name.rpartition(".")
    if dot and module and attribute.isidentifier():
        close = f" Write a class path as {module}:{attribute}."
    else:
        close = did_you_mean(normalise(name), known)
    return UnknownOptimizerError(f"No optimizer is called {shortened(name)}.{close} `anyoptim list` shows every name.")


def _text(name: object) -> str:
    return str(name.value if isinstance(name, Enum) else name)
