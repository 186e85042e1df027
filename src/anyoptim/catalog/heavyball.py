"""HeavyBall. Source: https://github.com/HomebrewML/HeavyBall"""

from __future__ import annotations

from anyoptim.catalog._index import Facts, indexed
from anyoptim.spec import Traits

_TRAITS = Traits(consumes_gradients=True)

SPECS = indexed(
    "heavyball",
    licence="BSD-2-Clause",
    extra="heavyball",
    traits=_TRAITS,
    mends=("no_pickle_in_state", "no_compiling_on_a_cpu"),
    facts={
        "sfadamw": Facts(traits=Traits(schedule_free=True, consumes_gradients=True)),
        # chosen from the parameters where none is given, which fails for param groups
        "psgdlra": Facts(traits=_TRAITS, defaults={"rank": 4}),
    },
)
