"""Prodigy, by its authors. Source: https://github.com/konstmish/prodigy"""

from __future__ import annotations

from anyoptim.catalog._index import Facts, indexed

SPECS = indexed(
    "prodigyopt",
    licence="MIT",
    extra="prodigy",
    limits={"fp16": {"its eps is zero in float16": "prodigy"}},
    facts={"prodigy": Facts(name="prodigy", coupled="its step size is estimated from all parameters together")},
)
