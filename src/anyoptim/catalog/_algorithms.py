"""What each algorithm is, for packages that offer it: one line, its paper, and the learning rates it usually takes.

They stand in ``algorithms.json``, which is read when the first indexed spec is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Algorithm(NamedTuple):
    """What an optimizer's name stands for, whichever package implements it.

    Args:
        summary: one line for a person.
        paper: where it is published.
        usual_lr: lowest and highest learning rate in common use; ``None`` where it has no meaning.
    """

    summary: str
    paper: str = ""
    usual_lr: tuple[float, float] | None = None


@cache
def algorithms() -> Mapping[str, Algorithm]:
    """Return every algorithm, by an optimizer's own name or, where packages differ, by the package and the name."""
    rows = json.loads(Path(__file__).with_name("algorithms.json").read_text(encoding="utf-8"))
    return {name: _algorithm(**row) for name, row in rows.items()}


def _algorithm(summary: str, paper: str = "", usual_lr: list[float] | None = None) -> Algorithm:
    if usual_lr is None:
        return Algorithm(summary, paper)
    low, high = usual_lr
    return Algorithm(summary, paper, (low, high))
