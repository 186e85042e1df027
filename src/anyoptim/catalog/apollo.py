"""APOLLO: an engine of our own; upstream is https://github.com/zhuhanqing/APOLLO (apollo-torch, CC-BY-NC-4.0)."""

from __future__ import annotations

from typing import Literal

from anyoptim.catalog._shared import AT_LEAST_ONE, POSITIVE, betas, eps, flag, lr, native, weight_decay
from anyoptim.names.composing import upstream, variant
from anyoptim.names.hyperparameters import FUSED_BACKWARD, STORAGE, Hyperparameter, coupling
from anyoptim.names.role import MATRICES, Role
from anyoptim.names.spec import Implementation, OptimizerSpec, Traits

_HYPERPARAMETERS = (
    lr(1e-3),
    betas(),
    eps(1e-6),
    weight_decay(),
    flag("correct_bias", "Adam's bias correction", default=True),
    flag("scale_front", "apply scale before the norm-growth limiter"),
    flag("disable_nl", "switch the norm-growth limiter off"),
    Hyperparameter("rank", int, 256, "rank of the projected gradient", AT_LEAST_ONE, "target"),
    Hyperparameter("proj", Literal["random", "svd"], "random", "projection", scope="target"),
    Hyperparameter(
        "scale_type",
        Literal["channel", "tensor"],
        "channel",
        "one scale per channel or tensor",
        scope="target",
    ),
    Hyperparameter("scale", float, 1.0, "gradient scale; its square root is applied", POSITIVE, "target"),
    Hyperparameter("update_proj_gap", int, 200, "steps between new projections", AT_LEAST_ONE, "target"),
    Hyperparameter(
        "proj_type",
        Literal["std", "reverse_std", "left", "right"],
        "std",
        "side that is projected",
        scope="target",
    ),
)

APOLLO = OptimizerSpec(
    name="apollo_adamw",
    summary="APOLLO: each channel of the gradient scaled as a low-rank AdamW would",
    paper="arXiv 2412.05270",
    usual_lr=(1e-5, 1e-2),
    traits=Traits(needs_targets=True, adam_fields=True),
    implementations=(
        native(
            "apollo:APOLLOAdamW",
            *_HYPERPARAMETERS,
            Hyperparameter("keep_projection", bool, False, "hold random projections, for speed", scope="target"),
            FUSED_BACKWARD,
            *STORAGE,
            target_roles=MATRICES,
            by_place=True,
            # a random projection stays on shards, which takes fewer bytes
            owned_with={"proj": "svd"},
            fused_form="low_rank",
        ),
        Implementation(
            name="upstream",
            target="apollo_torch:APOLLOAdamW",
            package="apollo-torch",
            extra="apollo",
            licence="CC-BY-NC-4.0",
            limits={
                "resume": "its state holds projector objects",
                "weights_only": "its state holds projector objects",
                "fp16": "its eps is zero in float16",
                "FSDP2": "it keys state by the constructor's parameters",
            },
            target_roles=MATRICES - {Role.EXPERT_STACK},
            hyperparameters=_HYPERPARAMETERS,
            unsupported=coupling("apollo-torch steps differently on one parameter alone; take implementation=native"),
            refused={"no_deprecation_warning": "it silences a warning that apollo_adamw never gives"},
        ),
    ),
)

SPECS = (
    APOLLO,
    upstream(APOLLO, "apollo_torch/apollo_adamw"),
    variant(
        APOLLO,
        "apollo_mini",
        summary="APOLLO-Mini: rank 1 and one scale per tensor, optimizer state close to none",
        rank=1,
        scale_type="tensor",
        scale=128.0,
    ),
    variant(
        APOLLO,
        "apollo_adamw_layerwise",
        summary="APOLLO inside the backward pass: gradients never pile up",
        fused_backward=True,
    ),
)
