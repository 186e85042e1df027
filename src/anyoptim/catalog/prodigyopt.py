"""Prodigy, by its authors. Source: https://github.com/konstmish/prodigy"""

from __future__ import annotations

from anyoptim.catalog._index import Facts, indexed
from anyoptim.catalog._shared import DISTANCE

SPECS = indexed(
    "prodigyopt",
    licence="MIT",
    extra="prodigy",
    limits={"fp16": {"its eps is zero in float16": "prodigy"}},
    facts={
        "prodigy": Facts(
            name="prodigy",
            coupled=DISTANCE,
            implementation={
                "mends": ("sums_over_shards", "first_weights_at_full_size"),
                "one_for_all": frozenset({"lr", "betas", "beta3", "use_bias_correction", "d_coef", "growth_rate"}),
            },
        )
    },
)
