"""How names are written: the one spelling of each, and the closest ones to a name that nobody knows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

from anyoptim.errors import UnknownOptimizerError, did_you_mean
from anyoptim.text import shortened

WRAPPED = re.compile(r"(?P<wrapper>[^()+]+)\((?P<inner>.+)\)", re.DOTALL)
LONGEST_NAME = 200
"""Characters; class paths in all the wrappers there are have fewer."""


def normalise(name: str) -> str:
    """Return the registered spelling: lower snake case; a class path ``module:Class`` stays as it is.

    Args:
        name: text, or a member of an enum of names, such as ``OptimizerNames``, which stands for its value.

    Raises:
        UnknownOptimizerError: it is no text, or longer than a name can be.
    """
    name = _text(name).strip()
    if len(name) > LONGEST_NAME:
        raise UnknownOptimizerError(
            f"{shortened(name)} has {len(name)} characters; no name of an optimizer has more than {LONGEST_NAME}."
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
    text = name.value if isinstance(name, Enum) else name
    if not isinstance(text, str):
        raise UnknownOptimizerError(f"{shortened(text)} is no name of an optimizer: a name is text.")
    return text
