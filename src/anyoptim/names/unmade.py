"""A name whose spec is made when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anyoptim.names.spec import OptimizerSpec


@dataclass(frozen=True)
class Unmade:
    """What the registry has to know of a name before anybody asks what it means.

    Args:
        name: as in its spec.
        make: returns the spec.
        aliases: as in its spec.
    """

    name: str
    make: Callable[[], OptimizerSpec]
    aliases: tuple[str, ...] = ()
