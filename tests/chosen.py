"""All names, and which of them a costly test runs in `make test`: one of each kind and some others."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

import anyoptim

SPECS = {name: anyoptim.optimizer_info(name) for name in anyoptim.list_optimizers() if not name.startswith("example_")}
"""The catalogue, without the example plug-in."""


def kind(name: str) -> tuple[object, ...]:
    """What decides which of our code a name goes through."""
    spec = anyoptim.optimizer_info(name)
    own = spec.default
    return (
        spec.traits,
        (own.name, own.takes, own.applied_lr, frozenset(own.mends), frozenset(own.unsupported)),
        (own.shards, own.resumable, own.updates_in_backward, own.group_flag is not None),
        (spec.fused_backward, spec.fallback is not None, tuple(each.name for each in spec.wrappers)),
    )


def chosen(names: Sequence[str], others: int = 30) -> set[str]:
    """The first name of each kind, and a sample of the others that is the same every time."""
    first: dict[tuple[object, ...], str] = {}
    for name in names:
        first.setdefault(kind(name), name)
    rest = sorted(set(names) - set(first.values()))
    return {*first.values(), *random.Random(0).sample(rest, min(others, len(rest)))}


def parameters(names: Iterable[str], quick: set[str]) -> list[Any]:
    """Names for ``parametrize``, those that are not quick marked as slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]
