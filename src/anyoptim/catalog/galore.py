"""GaLore: engines of our own; upstream is https://github.com/jiaweizzhao/GaLore (galore-torch)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from anyoptim.catalog._shared import (
    ADAFACTOR,
    AT_LEAST_ONE,
    OPTIONAL_LR,
    POSITIVE,
    RELATIVE_STEP,
    betas,
    eps,
    flag,
    lr,
    native,
    weight_decay,
)
from anyoptim.names.composing import upstream, variant
from anyoptim.names.hyperparameters import WHERE_AND_WHEN, Hyperparameter, coupling
from anyoptim.names.role import MATRICES, Role
from anyoptim.names.spec import Implementation, OptimizerSpec, Traits

_ADAMW = (lr(1e-3), betas(), eps(1e-6), weight_decay(), flag("correct_bias", "Adam's bias correction", default=True))
_TARGET = (
    Hyperparameter("rank", int, 128, "rank of the projected gradient", AT_LEAST_ONE, "target"),
    Hyperparameter("update_proj_gap", int, 200, "steps between new projections", AT_LEAST_ONE, "target"),
    Hyperparameter("scale", float, 0.25, "multiplies the update of a target", POSITIVE, "target"),
    Hyperparameter(
        "proj_type",
        Literal["std", "reverse_std", "left", "right", "full"],
        "std",
        "side that is projected",
        scope="target",
    ),
)


_NO_RELATIVE_STEP = "the learning rate is lr; a schedule belongs in lr_scheduler_type"


def _upstream(name: str, *hyperparameters: Hyperparameter) -> Implementation:
    return Implementation(
        name="upstream",
        target=f"galore_torch:{name}",
        package="galore-torch",
        extra="galore",
        licence="Apache-2.0",
        mends=("plain_state",),
        across="owned",
        target_roles=MATRICES - {Role.EXPERT_STACK},
        hyperparameters=(*hyperparameters, *_TARGET),
        unsupported=coupling("it is tested with our engine only; take implementation=native"),
    )


ADAMW = OptimizerSpec(
    name="galore_adamw",
    summary="GaLore: AdamW on gradients projected to a low rank",
    paper="arXiv 2403.03507",
    usual_lr=(1e-5, 1e-2),
    traits=Traits(needs_targets=True),
    implementations=(
        native(
            "galore:GaLoreAdamW",
            *_ADAMW,
            Hyperparameter("optim_bits", Literal[8, 32], 32, "bits of a moment; 8: quantized block by block"),
            *_TARGET,
            *WHERE_AND_WHEN,
            target_roles=MATRICES,
            across="owned",
            fused_form="low_rank",
        ),
        _upstream("GaLoreAdamW", *_ADAMW, flag("no_deprecation_warning", "do not warn that torch has an AdamW too")),
    ),
)
# the 8-bit class of galore-torch needs CUDA
ADAMW_8BIT = variant(
    replace(ADAMW, implementations=ADAMW.implementations[:1]),
    "galore_adamw_8bit",
    summary="GaLore with moments in 8 bits",
    optim_bits=8,
)
ADAFACTOR_SPEC = OptimizerSpec(
    name="galore_adafactor",
    summary="GaLore with a factored second moment",
    paper="arXiv 2403.03507",
    usual_lr=(1e-5, 1e-2),
    traits=Traits(needs_targets=True),
    implementations=(
        native(
            "galore:GaLoreAdafactor",
            lr(1e-3),
            *ADAFACTOR,
            *_TARGET,
            *WHERE_AND_WHEN,
            refused={"relative_step": _NO_RELATIVE_STEP, "warmup_init": _NO_RELATIVE_STEP},
            target_roles=MATRICES,
            across="owned",
        ),
        replace(
            _upstream("GaLoreAdafactor", OPTIONAL_LR, *ADAFACTOR, *RELATIVE_STEP),
            own_step_size=True,
            mends=("plain_state", "rate_in_groups"),
        ),
    ),
)


def _layerwise(spec: OptimizerSpec) -> OptimizerSpec:
    return variant(
        spec,
        f"{spec.name}_layerwise",
        summary=f"{spec.summary}, inside the backward pass: gradients never pile up",
        fused_backward=True,
    )


SPECS = (
    *(each for spec in (ADAMW, ADAFACTOR_SPEC, ADAMW_8BIT) for each in (spec, _layerwise(spec))),
    *(upstream(spec, f"galore_torch/{spec.name}") for spec in (ADAMW, ADAFACTOR_SPEC)),
)
