"""Muon, NorMuon and AdaMuon: engines of our own, which take expert stacks too. AdamW trains the rest.

Upstream of Muon is torch.optim.Muon; pytorch_optimizer has classes of its own for all three.
"""

from __future__ import annotations

from typing import Literal

from anyoptim.catalog._shared import (
    DECAY,
    NON_NEGATIVE,
    betas,
    eps,
    flag,
    lr,
    momentum,
    native,
    weight_decay,
)
from anyoptim.catalog.torch import ADAMW
from anyoptim.names.composing import pair, upstream
from anyoptim.names.hyperparameters import WHERE_AND_WHEN, Hyperparameter, Interval
from anyoptim.names.role import MATRICES, Role
from anyoptim.names.spec import Implementation, OptimizerSpec, Traits

_NS_COEFFICIENTS = Hyperparameter(
    "ns_coefficients",
    tuple[float, float, float],
    (3.4445, -4.7750, 2.0315),
    "of the Newton-Schulz polynomial ax + bx^3 + cx^5",
)
_NS_STEPS = Hyperparameter("ns_steps", int, 5, "Newton-Schulz iterations", Interval(low=1, high=99))
_ORTHOGONALIZE = Hyperparameter(
    "orthogonalize",
    Literal["newton_schulz", "polar_express", "gram"],
    "newton_schulz",
    "polar_express: the best polynomial for each iteration; gram: newton_schulz by fewer products",
)


def _adjust_lr_fn(default: str | None) -> Hyperparameter:
    return Hyperparameter(
        "adjust_lr_fn",
        Literal["original", "match_rms_adamw"] | None,
        default,
        "how lr depends on a matrix's shape; match_rms_adamw: as large a step as AdamW's; none: original",
    )


_OF_TORCH = (
    lr(1e-3),
    weight_decay(0.1),
    momentum(0.95),
    flag("nesterov", "Nesterov momentum", default=True),
    _NS_COEFFICIENTS,
    Hyperparameter("eps", float, 1e-7, "least norm that a matrix is divided by", NON_NEGATIVE),
    _NS_STEPS,
    _adjust_lr_fn(None),
    *WHERE_AND_WHEN,
)
_PIECES = (
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
"""Which matrices weights consist of."""
_ONLY_NATIVE = "only the native implementation takes weights apart"
_TRAITS = Traits(needs_targets=True, targets="hidden-matrices")

MUON = pair(
    OptimizerSpec(
        name="muon",
        summary="Muon on hidden matrices and expert stacks, AdamW on all other parameters",
        paper="https://kellerjordan.github.io/posts/muon/, arXiv 2502.16982",
        usual_lr=(1e-4, 0.05),
        traits=_TRAITS,
        implementations=(
            native("muon:Muon", *_OF_TORCH, _ORTHOGONALIZE, *_PIECES, target_roles=MATRICES, across="owned"),
            Implementation(
                name="upstream",
                target="torch.optim:Muon",
                across="owned",
                package="torch",
                licence="BSD-3-Clause",
                hyperparameters=_OF_TORCH,
                target_roles=MATRICES - {Role.EXPERT_STACK},
                refused={each.name: _ONLY_NATIVE for each in _PIECES},
            ),
        ),
    ),
    ADAMW,
    "muon",
)


def _variant(
    name: str,
    summary: str,
    paper: str,
    usual_lr: tuple[float, float],
    target: str,
    *own: Hyperparameter,
    unsteady: dict[str, str] | None = None,
) -> OptimizerSpec:
    """An engine of ours on Muon's, with AdamW for the rest."""
    engine = native(
        target,
        *own,
        _ORTHOGONALIZE,
        *_PIECES,
        *WHERE_AND_WHEN,
        target_roles=MATRICES,
        across="owned",
        unsteady=unsteady,
    )
    spec = OptimizerSpec(
        name=name, summary=summary, paper=paper, usual_lr=usual_lr, traits=_TRAITS, implementations=(engine,)
    )
    return pair(spec, ADAMW, name)


NORMUON = _variant(
    "normuon",
    "Muon with steps of one size for all rows of a matrix, AdamW on all other parameters",
    "arXiv 2510.05491",
    (1e-4, 0.05),
    "normuon:NorMuon",
    lr(0.02),
    momentum(0.95),
    Hyperparameter("beta2", float, 0.95, "decay rate of the rows' second moments", DECAY),
    weight_decay(),
    flag("nesterov", "Nesterov momentum", default=True),
    _NS_COEFFICIENTS,
    _NS_STEPS,
    _adjust_lr_fn(None),
    eps(1e-10),
    # rows of next to nothing are made as large as the others
    unsteady={"torch.compile": "Newton-Schulz iterations round otherwise when compiled"},
)
ADAMUON = _variant(
    "adamuon",
    "Muon with a second moment of each weight's updates, AdamW on all other parameters",
    "arXiv 2507.11005",
    (1e-5, 0.02),
    "adamuon:AdaMuon",
    lr(1e-3),
    betas(0.95, 0.95),
    weight_decay(0.1),
    flag("sign", "orthogonalize the momentum's signs", default=True),
    _NS_COEFFICIENTS,
    _NS_STEPS,
    _adjust_lr_fn("match_rms_adamw"),
    eps(),
)

SPECS = (MUON, upstream(MUON, "torch/muon"), NORMUON, ADAMUON)
