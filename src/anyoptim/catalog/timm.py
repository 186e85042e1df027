"""timm's optimizers under timm's own names. Source: https://github.com/huggingface/pytorch-image-models, timm/optim

Their modules are imported without ``timm/__init__``, which needs torchvision.
"""

from __future__ import annotations

from typing import Any

from anyoptim.catalog._index import Facts, indexed
from anyoptim.catalog._shared import (
    DECAY,
    FRACTION,
    NON_NEGATIVE,
    OWN_STEP_SIZE,
    SHARDED_GRAPH,
    SHARDED_PLAIN,
    SHARDED_REFUSED,
    betas,
    eps,
    flag,
    lr,
    momentum,
    weight_decay,
)
from anyoptim.names.hyperparameters import Hyperparameter
from anyoptim.names.spec import GroupFlag, Implementation, OptimizerSpec, Traits

# of the packages that offer them, see benchmarks/results/bare_names.md
_FASTEST = ("adabelief", "kron", "laprop", "lars", "mars", "novograd")
_MADE_FROM_SUMS = {"mends": ("weights_stay_while_state_is_made",)}
_BITSANDBYTES = (
    *("bnbadam", "bnbadam8bit", "bnbadamw", "bnbadamw8bit", "bnbademamix", "bnbademamix8bit", "bnblion"),
    *("bnblion8bit", "bnbsgd", "bnbsgd8bit"),
)
# whose own __init__ loads its kernels
_OF_BITSANDBYTES = {"mends": ("hooks_around_loading",), "skips_init": False}
# adamw, sgd and momentum are torch's classes
_FUSED_FORMS = {"adamw": "adamw", "lion": "lion", "momentum": "sgd", "sgd": "sgd"}
_BIG_VISION = ("adafactorbv", "adafactorbvc", "cadafactorbv", "cadafactorbvc")
_RMSPROP = ("rmsprop", "rmsproptf", "rmsproptfc", "rmsproptfw", "crmsproptf")
_MUON = Facts(
    traits=Traits(needs_targets=True, targets="hidden-matrices"),
    implementation={"group_flag": GroupFlag("use_fallback", target=False, rest=True)},
)


def _apex(name: str, summary: str, target: str, *hyperparameters: Hyperparameter, **changed: Any) -> OptimizerSpec:
    own = (each if each.name not in changed else _with_default(each, changed[each.name]) for each in hyperparameters)
    implementation = Implementation(
        name="upstream",
        target=f"apex.optimizers:{target}",
        hyperparameters=tuple(own),
        package="apex",
        licence="BSD-3-Clause",
        install="see github.com/NVIDIA/apex (the package apex on PyPI is another one)",
        device="cuda",
    )
    return OptimizerSpec(name=f"timm/{name}", summary=summary, implementations=(implementation,))


def _with_default(each: Hyperparameter, default: object) -> Hyperparameter:
    return Hyperparameter(each.name, each.type, default, each.help, each.within)


_BIAS_CORRECTION = flag("bias_correction", "Adam's bias correction", default=True)
_ADAM_W_MODE = flag("adam_w_mode", "decoupled weight decay", default=True)
_AMSGRAD = flag("amsgrad", "keep the maximum of the second moment")
_ADAM = (lr(1e-3), _BIAS_CORRECTION, betas(), eps(), _ADAM_W_MODE, weight_decay(), _AMSGRAD)

SPECS = (
    *indexed(
        "timm",
        licence="Apache-2.0",
        extra="timm",
        skips_init=True,
        coupled={
            "it scales by the norm of all gradients": "clamb clambw lamb lambc lambcd lambcw lambw",
            "it draws random numbers, one after another for all parameters": "kron kronc kronw",
        },
        limits={
            "FSDP2": {
                SHARDED_REFUSED: "clamb clambw",
                SHARDED_PLAIN: "kron kronc kronw",
                SHARDED_GRAPH: "adahessian",
            },
            "schedule": {
                "its momentum holds updates at earlier rates": "cadafactor crmsproptf rmsproptf rmsproptfc rmsproptfw",
                "its weights are made anew from sums over all steps": "madgrad madgradw",
            },
            "fp16": {
                "its eps is zero in float16": (
                    "adafactorbv adafactorbvc adagrad adahessian adam adamax adamc adamp adamw adamuon adamwlegacy adan"
                    " adanw cadafactorbv cadafactorbvc cadamc cadamp cadamw cadan cadanw claprop cmars cnadamw cnadamc"
                    " laprop lapropc larc lars mars nadam muon nadamc nadamlegacy nadamuon nadamw nlarc nlars"
                    " nmuon radam radamw rmsprop"
                ),
            },
            "torch.compile": {
                "it draws random numbers": "kron kronc kronw",
            },
            "added group": {"it prepares its parameters when it is built": "adahessian"},
        },
        unsteady={
            "deepcopy and pickle": {
                "pickle does not find its classes where timm does not import, as without torchvision": "*"
            },
            "torch.compile": {
                "Newton-Schulz iterations round otherwise when compiled": "adamuon muon nadamuon nmuon",
            },
        },
        facts={
            **{name: Facts(name=name) for name in _FASTEST},
            "madgrad": Facts(name="madgrad", implementation=_MADE_FROM_SUMS),
            "madgradw": Facts(implementation=_MADE_FROM_SUMS),
            **{name: Facts(implementation=_OF_BITSANDBYTES) for name in _BITSANDBYTES},
            **{name: Facts(implementation={"fused_form": form}) for name, form in _FUSED_FORMS.items()},
            **{name: Facts(hyperparameters={"decay_rate": {"within": NON_NEGATIVE}}) for name in _BIG_VISION},
            **{name: Facts(hyperparameters={"alpha": {"within": DECAY}}) for name in _RMSPROP},
            # without a learning rate
            "adafactor": Facts(implementation=OWN_STEP_SIZE),
            "cadafactor": Facts(implementation=OWN_STEP_SIZE),
            "adopt": Facts(name="adopt", aliases=("adopt_adamw",)),
            "adahessian": Facts(
                traits=Traits(second_order=True),
                coupled="it differentiates all gradients together",
                implementation={"mends": ("generator_in_state",)},
            ),
            "muon": _MUON,
            "nmuon": _MUON,
            "adamuon": _MUON,
            "nadamuon": _MUON,
        },
    ),
    _apex("fusedadam", "Adam of NVIDIA Apex, one fused kernel", "FusedAdam", *_ADAM, adam_w_mode=False),
    _apex("fusedadamw", "AdamW of NVIDIA Apex, one fused kernel", "FusedAdam", *_ADAM),
    _apex(
        "fusedlamb",
        "LAMB of NVIDIA Apex, one fused kernel",
        "FusedLAMB",
        *_ADAM,
        eps=1e-6,
        weight_decay=0.01,
    ),
    _apex(
        "fusednovograd",
        "NovoGrad of NVIDIA Apex, one fused kernel",
        "FusedNovoGrad",
        *(each for each in _ADAM if each is not _ADAM_W_MODE),
        betas=(0.95, 0.98),
    ),
    _apex(
        "fusedsgd",
        "SGD of NVIDIA Apex, one fused kernel",
        "FusedSGD",
        lr(1e-3),
        momentum(0.9),
        Hyperparameter("dampening", float, 0.0, "dampening of the momentum", FRACTION),
        weight_decay(),
        flag("nesterov", "Nesterov momentum", default=True),
    ),
)
