"""HeavyBall. Source: https://github.com/HomebrewML/HeavyBall"""

from __future__ import annotations

from anyoptim.catalog._index import Facts, indexed
from anyoptim.catalog._shared import SHARDED_PART
from anyoptim.names.spec import Traits

_TRAITS = Traits(consumes_gradients=True)

_RANDOM = "it draws random numbers, one after another for all parameters"

SPECS = indexed(
    "heavyball",
    licence="BSD-2-Clause",
    extra="heavyball",
    traits=_TRAITS,
    mends=("no_pickle_in_state", "plain_state", "no_compiling_on_a_cpu", "weights_stay_while_state_is_made"),
    coupled={
        "its preconditioners are renewed by a count of all steps": (
            "heavyklshampoo heavyklsoap heavysoap heavysoapademamix heavysoapnadam heavysolp klshampoo klsoap soap"
            " soapademamix soapnadam solp"
        ),
        _RANDOM: "lather psgdkron psgdlra psgdpro qsgd",
        "a step on one parameter alone gives other weights than a step on all": "muon muonadamw muonlaprop scion",
    },
    limits={
        "FSDP2": {SHARDED_PART: "scion"},
        "elastic": {"it counts its steps in the state of the first parameter that it steps": "sudsadamw"},
        "schedule": {"it moves the weights along its momentum and back": "msamlaprop"},
        "per-group rate": {"it gives matrices singular values of one at its first step": "scion"},
        "bf16": {"its preconditioner stays in float32": "psgdpro qsgd"},
        "fp16": {
            "its preconditioner stays in float32": "psgdpro qsgd",
            "its eps is zero in float16": "adopt",
        },
        "deepcopy and pickle": {"its attributes hold functions that pickle does not find by their names": "*"},
        "torch.compile": {
            _RANDOM: "lather psgdkron psgdlra psgdpro qsgd",
        },
    },
    unsteady={
        "resume": {"its random numbers are in no state dict": "lather psgdkron psgdpro"},
        "bf16": {"weights become NaN": "adopt"},
        "torch.compile": {
            "Newton-Schulz iterations round otherwise when compiled": "muon muonadamw muonlaprop scion",
        },
    },
    facts={
        "soap": Facts(name="soap", traits=_TRAITS),
        "sfadamw": Facts(traits=Traits(schedule_free=True, consumes_gradients=True)),
        # chosen from the parameters where none is given, which fails for param groups
        "psgdlra": Facts(traits=_TRAITS, defaults={"rank": 4}),
    },
)
