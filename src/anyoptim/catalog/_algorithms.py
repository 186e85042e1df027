from __future__ import annotations

from typing import NamedTuple


class Algorithm(NamedTuple):
    summary: str
    paper: str = ""
    usual_lr: tuple[float, float] | None = None


ALGORITHMS: dict[str, Algorithm] = {}
