"""Muon: an engine of our own, which takes expert stacks too; upstream is torch.optim.Muon. AdamW trains the rest."""

from __future__ import annotations

from typing import Literal

from anyoptim.catalog._shared import NON_NEGATIVE, SHARDED_PART, flag, lr, momentum, native, weight_decay
from anyoptim.catalog.torch import ADAMW
from anyoptim.names.composing import pair, upstream
from anyoptim.names.hyperparameters import FUSED_BACKWARD, Hyperparameter, Interval
from anyoptim.names.role import MATRICES, Role
from anyoptim.names.spec import Implementation, OptimizerSpec, Traits

_HYPERPARAMETERS = (
    lr(1e-3),
    weight_decay(0.1),
    momentum(0.95),
    flag("nesterov", "Nesterov momentum", default=True),
    Hyperparameter(
        "ns_coefficients",
        tuple[float, float, float],
        (3.4445, -4.7750, 2.0315),
        "of the Newton-Schulz polynomial ax + bx^3 + cx^5",
    ),
    Hyperparameter("eps", float, 1e-7, "least norm that a matrix is divided by", NON_NEGATIVE),
    Hyperparameter("ns_steps", int, 5, "Newton-Schulz iterations", Interval(low=1, high=99)),
    Hyperparameter(
        "adjust_lr_fn",
        Literal["original", "match_rms_adamw"] | None,
        None,
        "how lr depends on a matrix's shape; match_rms_adamw: as large a step as AdamW's; none: original",
    ),
    FUSED_BACKWARD,
)

PIECES = (
    Hyperparameter(
        "split_fused",
        bool,
        True,
        "take fused projections as the matrices they hold: q, k, v, or gate and up",
        scope="routing",
    ),
    Hyperparameter("heads", bool, False, "take each head of q, k and v as a matrix", scope="routing"),
    Hyperparameter(
        "convolutions",
        Literal["flatten"] | None,
        None,
        "flatten: take convolutions as matrices, one row an output; none: they are no targets",
        scope="routing",
    ),
)
"""Which matrices weights consist of, for engines that read ``split`` and ``flatten`` in their groups."""
_ONLY_NATIVE = "only the native implementation takes weights apart"

_MATRICES_ALONE = OptimizerSpec(
    name="muon",
    summary="Muon on hidden matrices and expert stacks, AdamW on all other parameters",
    paper="https://kellerjordan.github.io/posts/muon/, arXiv 2502.16982",
    usual_lr=(1e-4, 0.05),
    traits=Traits(needs_targets=True, targets="hidden-matrices"),
    implementations=(
        native("muon:Muon", *_HYPERPARAMETERS, *PIECES, target_roles=MATRICES),
        Implementation(
            name="upstream",
            target="torch.optim:Muon",
            limits={"DTensor": SHARDED_PART},
            package="torch",
            licence="BSD-3-Clause",
            hyperparameters=_HYPERPARAMETERS,
            target_roles=MATRICES - {Role.EXPERT_STACK},
            refused={each.name: _ONLY_NATIVE for each in PIECES},
        ),
    ),
)
MUON = pair(_MATRICES_ALONE, ADAMW, "muon")

SPECS = (MUON, upstream(MUON, "torch/muon"))
