"""CAME, by its authors. Source: https://github.com/yangluo7/CAME"""

from __future__ import annotations

from anyoptim.catalog._index import Facts, indexed

SPECS = indexed(
    "came_pytorch",
    licence="MIT",
    extra="came",
    facts={"came": Facts(aliases=("came_pytorch",), defaults={"lr": 2e-4})},  # none is refused
)
