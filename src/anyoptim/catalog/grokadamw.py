"""GrokAdamW: an engine of our own; upstream is https://github.com/cognitivecomputations/grokadamw (Apache-2.0)."""

from __future__ import annotations

from collections.abc import Callable

from anyoptim.catalog._shared import FRACTION, NON_NEGATIVE, betas, eps, lr, native, weight_decay
from anyoptim.names.composing import upstream
from anyoptim.names.hyperparameters import Hyperparameter, coupling
from anyoptim.names.spec import Implementation, OptimizerSpec

_UNSUPPORTED = coupling("its beta1 falls with a parameter's place among those that have a gradient")
_HYPERPARAMETERS = (
    lr(1e-3),
    betas(),
    eps(),
    weight_decay(1e-2),
    Hyperparameter("alpha_init", float, 0.98, "momentum of the slow gradient", FRACTION),
    Hyperparameter("lamb", float, 2.0, "amplification of the slow gradient", NON_NEGATIVE),
    Hyperparameter("gamma", float, 0.1, "decay of beta1 over layers", FRACTION),
    Hyperparameter(
        "grokking_signal_fns",
        list[Callable[[], float]] | None,
        None,
        "each returns a signal; their mean counts",
    ),
    Hyperparameter("grokking_signal_decay_rate", float, 0.1, "how fast the signal lowers alpha", NON_NEGATIVE),
    Hyperparameter(
        "gradient_clipping",
        float,
        1.0,
        "norm to clip each parameter's gradient at; 0: off",
        NON_NEGATIVE,
    ),
)

GROKADAMW = OptimizerSpec(
    name="grokadamw",
    summary="GrokAdamW: AdamW that amplifies slow gradients to speed up grokking",
    paper="arXiv 2405.20233 (Grokfast), https://github.com/cognitivecomputations/grokadamw",
    usual_lr=(1e-6, 3e-3),
    implementations=(
        native("grokadamw:GrokAdamW", *_HYPERPARAMETERS, unsupported=_UNSUPPORTED, by_place=True),
        Implementation(
            name="upstream",
            target="grokadamw:GrokAdamW",
            package="grokadamw",
            extra="grokadamw",
            licence="Apache-2.0",
            limits={
                "resume": "it keeps state in its groups, keyed by tensors that are gone",
                "weights_only": "it keeps state in its groups, keyed by tensors",
                "sharded checkpoints": "it keeps state in its groups, keyed by tensors",
                "fp16": "its eps is zero in float16",
            },
            hyperparameters=_HYPERPARAMETERS,
            unsupported=_UNSUPPORTED,
            by_place=True,
        ),
    ),
)

SPECS = (GROKADAMW, upstream(GROKADAMW, "grokadamw/grokadamw"))
