"""pytorch_optimizer. Source: https://github.com/kozistr/pytorch_optimizer"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from anyoptim.catalog._index import Facts, indexed
from anyoptim.catalog._shared import (
    AT_LEAST_ONE,
    DECAY,
    DISTANCE,
    NON_NEGATIVE,
    OWN_STEP_SIZE,
    POSITIVE,
    SHARDED_GRAPH,
    SHARDED_PART,
    SHARDED_PLAIN,
    SHARDED_REFUSED,
    flag,
)
from anyoptim.catalog.torch import ADAMW
from anyoptim.names.hyperparameters import Hyperparameter
from anyoptim.names.role import MATRICES, Role
from anyoptim.names.spec import GroupFlag, Traits

_LINEAR = {"target_roles": MATRICES - {Role.EXPERT_STACK}}
_MUON = Facts(
    traits=Traits(needs_targets=True, targets="hidden-matrices"),
    implementation={"group_flag": GroupFlag("use_muon", target=True, rest=False), **_LINEAR},
)


def _low_rank(*more: Hyperparameter) -> Facts:
    return Facts(
        traits=Traits(needs_targets=True),
        implementation={**_LINEAR, **_PLAIN_STATE},
        added=(
            Hyperparameter("rank", int, 128, "rank of the projected gradient", AT_LEAST_ONE, "target"),
            Hyperparameter("update_proj_gap", int, 200, "steps between new projections", AT_LEAST_ONE, "target"),
            Hyperparameter("scale", float, 1.0, "factor of the projected update", POSITIVE, "target"),
            *more,
        ),
    )


_PROJECTION_TYPE = Hyperparameter(
    "projection_type",
    Literal["std", "reverse_std", "right", "left", "full", "random"],
    "std",
    "side that is projected",
    scope="target",
)
# of the packages that offer them, see benchmarks/results/bare_names.md
_FASTEST = ("adamp", "came", "lamb", "scion", "sgdw")
_ONLY_HERE = ("adabound", "adai", "diffgrad", "grams", "racs", "shampoo", "signsgd", "sm3", "tiger", "yogi")
_LOADS_IN_ITS_OWN_WAY = "hooks_around_loading"  # what hooks make of a state dict is not what it looks at
_PLAIN_STATE = {"mends": ("plain_state", _LOADS_IN_ITS_OWN_WAY)}


_SUMS = {"mends": (_LOADS_IN_ITS_OWN_WAY, "sums_over_shards")}
"""Of what adds norms of all parameters up."""


def _one_for_all(*names: str) -> dict[str, Any]:
    return {"one_for_all": frozenset(names)}


_LOMO = Facts(
    implementation={"takes": "model", "unusable": "it updates in a backward pass of its own; take lomo or adalomo"}
)
_CLOSURE = Traits(needs_closure=True)
# they follow the loss, which is 0 to them without a closure
_EMO = Facts(traits=_CLOSURE, implementation={"one_group": True})
_SECOND_ORDER = Traits(second_order=True)
_DIFFERENTIATES = "it differentiates all gradients together"
_SCHEDULE_FREE = Traits(schedule_free=True)

_ADANORM = "adabelief adamax adamp adams adan adapnm aida diffgrad lamb lion radam ranger"
_NEWTON_SCHULZ = "adago adamuon normuon"
_EXTRA = {
    flag("use_gc", "gradient centralization"): "adai adamp adan lion",
    flag("cautious", "drop what goes against the gradient's sign"): (
        "adafactor adago adamp adamuon adashift ademamix adopt distributedmuon laprop lion mars muon muonclip normuon"
    ),
    flag("adanorm", "scale a gradient up to the average of its norm"): _ADANORM,
    Hyperparameter("adanorm_r", float, 0.95, "decay rate of that average", DECAY): _ADANORM,
    flag("adam_debias", "correct the bias of the second moment only"): (
        "adabelief adahessian adamax adamod adamp adams adanorm adapnm aida avagrad diffgrad lamb novograd radam ranger"
        " ranger21 yogi"
    ),
    flag("stable_adamw", "clip the update as StableAdamW does"): "ademamix adopt",
    flag("normalized", "of the groups of norms"): "adamc",
    flag("sn", "of the groups that share second moments"): "adamwsn",
    Hyperparameter(
        "ns_method",
        Literal["newton_schulz", "gram_newton_schulz"],
        "newton_schulz",
        "how Newton-Schulz iterations are computed",
    ): _NEWTON_SCHULZ,
    Hyperparameter("ns_reset_steps", tuple[int, ...], (2,), "iterations that start again"): _NEWTON_SCHULZ,
    Hyperparameter("precondition_lr", float, 0.1, "learning rate of the preconditioner", NON_NEGATIVE): "kron",
    Hyperparameter("precondition_init_scale", float, 1.0, "first scale of the preconditioner", POSITIVE): "kron",
}
"""Keywords that constructors put into groups without naming them, where the step reads them."""

_MOVES_AT_RATE_ZERO = Facts(implementation={"mends": ("weights_stay_while_state_is_made", _LOADS_IN_ITS_OWN_WAY)})

SPECS = indexed(
    "pytorch_optimizer",
    licence="Apache-2.0",
    extra="pytorch-optimizer",
    mends=(_LOADS_IN_ITS_OWN_WAY,),
    extra_keywords=_EXTRA,
    coupled={
        DISTANCE: "dadaptadagrad dadaptadam dadaptadan dadaptlion dadaptsgd prodigy",
        "it draws random numbers, one after another for all parameters": "apollo bsam gravity kron magma",
        "it draws one of all parameters, and remembers them outside of its state": "sara",
        "a step on one parameter alone gives other weights than a step on all": (
            "adagc adams alice asgd avagrad dash lorarite madgrad ranger21 spam stablespam"
        ),
    },
    limits={
        "FSDP2": {
            SHARDED_REFUSED: "alig bsam dadaptsgd emofact lorarite magma sara",
            SHARDED_PLAIN: "apollo kron",
            "its step size follows a last digit of sums over ranks": "asgd dadaptadam dadaptadan",
            "it stacks blocks of several parameters, which rounds otherwise": "dash",
            SHARDED_PART: "gravity",
            SHARDED_GRAPH: "adahessian sophiah",
        },
        "trains": {"the loss of the kit's model rises at every rate": "bsam"},
        "schedule": {
            "its momentum holds updates at earlier rates": "accsgd adafactor laprop",
            "it warms up by a rate of its own": "apollodqn",
            "its step size does not come from lr": "a2grad alig",
            "its step has a lower bound": "adago",
            "it divides by lr": "asgd ftrl",
            "it draws weights around their mean": "bsam",
            "its weights are made anew from sums over all steps": "dadaptadan madgrad",
        },
        "load hooks": {"its state dict has a form of its own": "magma"},
        "other state": {"its state dict has a form of its own": "magma"},
        "decay groups": {"it takes one group": "emofact emolynx emonavi"},
        "per-group rate": {
            "its first velocity is in units of 1 / lr": "gravity",
            "it draws weights around their mean": "bsam",
            "it scales weights to a norm at its first step": "nero",
            "its average of the weights starts at zero": "srmm",
        },
        "bf16": {
            "weights become NaN": "adahessian adai",
        },
        "fp16": {
            "its first step size vanishes in float16": "dadaptadam dadaptadan",
            "its eps is zero in float16": (
                "adabelief adafactor adagc adago adahessian adam adalite adamax adamg adamc adammini adamod adamp adams"
                " adamw adamuon adamwsn adan adanorm adapnm adashift adatam ademamix aida alice amos ano apollo came"
                " conda dadaptsgd diffgrad dualadam emonavi exadam fira ftrl grokfastadamw kate lamb laprop magma mars"
                " muon muonclip nadam novograd padam normuon prodigy qhadam radam racs rmsprop sara schedulefreeadamw"
                " schedulefreeradam scion simplifiedademamix sm3 sophiah soap stablespam vsgd spectralsphere"
            ),
        },
        "torch.compile": {
            "it draws random numbers": "apollo gravity kron magma",
        },
        "added group": {
            "a group that is added has to say use_muon": "adago adamuon muon muonclip normuon",
            "it remembers the rates of the groups that it was built with": "adabound",
        },
        "deepcopy and pickle": {
            "its state is in an optimizer inside of it": "magma",
            "its attributes hold functions that pickle does not find by their names": "adopt",
        },
        "sharded checkpoints": {
            "the size of its state changes as it trains": "spam",
            "its history is made over many steps, and of all parameters together": "lbfgs",
        },
        "memory": {
            "its history grows over the first steps": "lbfgs",
            "how much it keeps depends on the weights": "nero sara",
        },
    },
    unsteady={
        **{check: {"weights become NaN at its own rate": "lbfgs"} for check in ("trains", "bf16", "fp16")},
        "torch.compile": {"it rounds otherwise when compiled": "adammini adamuon"},
    },
    facts={
        **{name: Facts(name=name) for name in _FASTEST + _ONLY_HERE},
        "flashadamw": Facts(implementation={"loads_state_of": ({"quantize": True}, {"quantize": False})}),
        # of the entries that are updated; which ones these are is drawn anew
        "spam": Facts(name="spam", implementation={"resized_state": frozenset({"exp_avg", "exp_avg_sq"})}),
        "sophiah": Facts(name="sophia", traits=_SECOND_ORDER, coupled=_DIFFERENTIATES),
        "stablespam": Facts(name="stable_spam"),
        "adagc": Facts(implementation=_SUMS),
        "dadaptadagrad": Facts(implementation={**_SUMS, **_one_for_all("lr")}),
        "dadaptadam": Facts(name="dadapt_adam", implementation=_one_for_all("lr", "betas", "bias_correction")),
        "dadaptadan": Facts(implementation=_one_for_all("lr", "betas", "growth_rate")),
        "dadaptlion": Facts(name="dadapt_lion", implementation={**_SUMS, **_one_for_all("lr", "betas")}),
        "dadaptsgd": Facts(implementation=_one_for_all("lr")),
        "prodigy": Facts(implementation={**_SUMS, **_one_for_all("lr", "betas", "beta3", "bias_correction")}),
        # while it warms up, which it does by a rate of its constructor's
        "apollodqn": Facts(implementation=_one_for_all("lr")),
        # the learning rate is the caller's
        "adafactor": Facts(
            defaults={"relative_step": False, "scale_parameter": False},
            implementation={"own_step_size": True, "mends": ("rate_in_groups", _LOADS_IN_ITS_OWN_WAY)},
        ),
        "adago": _MUON,
        "adamuon": _MUON,
        "distributedmuon": replace(_MUON, implementation={**_MUON.implementation, "needs_process_group": True}),
        "muon": _MUON,
        "muonclip": replace(_MUON, name="muonclip"),
        "normuon": _MUON,
        "galore": _low_rank(_PROJECTION_TYPE),
        "fira": replace(_low_rank(_PROJECTION_TYPE), name="fira"),
        "apollo": _low_rank(_PROJECTION_TYPE),
        "adahessian": Facts(name="adahessian", traits=_SECOND_ORDER, coupled=_DIFFERENTIATES),
        "adalomo": _LOMO,
        "lomo": _LOMO,
        "demo": Facts(implementation={"needs_process_group": True}),
        "adammini": Facts(
            implementation={"takes": "model"},
            hyperparameters={
                "num_embeds": {"taken_from": "config.hidden_size"},
                "num_heads": {"taken_from": "config.num_attention_heads"},
                "num_query_groups": {"taken_from": "config.num_key_value_heads"},
            },
        ),
        "a2grad": Facts(implementation=OWN_STEP_SIZE, refused={"lr": "its step size comes from lips and beta"}),
        "adashift": Facts(implementation=_PLAIN_STATE),
        "aggmo": Facts(implementation=_PLAIN_STATE),
        # without a bound it jumps wherever a gradient is small
        **dict.fromkeys(("emofact", "emolynx", "emonavi"), _EMO),
        "alig": Facts(traits=_CLOSURE, implementation=OWN_STEP_SIZE, defaults={"max_lr": 0.1}),
        "conda": Facts(name="conda", implementation=_PLAIN_STATE),
        "scalableshampoo": Facts(implementation=_PLAIN_STATE),
        "bsam": Facts(traits=_CLOSURE),
        "lorarite": Facts(implementation={"takes_lora_pairs": True}),
        "rmsprop": Facts(hyperparameters={"alpha": {"within": DECAY}}),
        "adatam": Facts(hyperparameters={"decay_rate": {"within": DECAY}}),
        "tam": Facts(hyperparameters={"decay_rate": {"within": DECAY}}),
        **dict.fromkeys(("ftrl", "nero", "srmm"), _MOVES_AT_RATE_ZERO),
        "lbfgs": Facts(traits=_CLOSURE, implementation={"takes": "parameters"}),
        "magma": Facts(implementation={"mends": ("torch_hooks", _LOADS_IN_ITS_OWN_WAY)}),
        "ranger21": Facts(name="ranger21", hyperparameters={"num_iterations": {"taken_from": "args.max_steps"}}),
        "schedulefreeadamw": Facts(traits=_SCHEDULE_FREE),
        "schedulefreeradam": Facts(traits=_SCHEDULE_FREE),
        "schedulefreesgd": Facts(traits=_SCHEDULE_FREE),
        "spectralsphere": Facts(implementation=_LINEAR, fallback=ADAMW),
    },
)
