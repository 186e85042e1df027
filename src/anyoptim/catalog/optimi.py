"""optimi. Source: https://optimi.benjaminwarner.dev"""

from __future__ import annotations

from anyoptim.catalog._index import Facts, indexed
from anyoptim.catalog._shared import (
    FOREACH,
    POSITIVE,
    betas,
    eps,
    flag,
    lr,
    optional_flag,
    weight_decay,
)
from anyoptim.names.hyperparameters import WHERE_AND_WHEN, Hyperparameter
from anyoptim.names.spec import Implementation, OptimizerSpec, Traits

SPECS = (
    *indexed(
        "optimi",
        licence="MIT",
        mends=("no_triton_on_a_cpu",),
        # every rate has to be given there; these are the usual ones
        facts={
            "adam": Facts(defaults={"lr": 1e-3}),
            "adamw": Facts(aliases=("optimi_adamw",), defaults={"lr": 1e-3}),
            "adan": Facts(name="adan", defaults={"lr": 1e-3}),
            "lion": Facts(name="lion", defaults={"lr": 1e-4}, implementation={"fused_form": "lion"}),
            "radam": Facts(defaults={"lr": 1e-3}),
            "ranger": Facts(name="ranger", defaults={"lr": 1e-3}),
            "sgd": Facts(defaults={"lr": 1e-2}),
        },
        refused_everywhere={"gradient_release": "fused_backward=true does the same, with any trainer"},
    ),
    OptimizerSpec(
        name="stable_adamw",
        summary="StableAdamW: AdamW with Adafactor's update clipping, so no gradient clipping",
        paper="arXiv 2304.13013",
        usual_lr=(1e-6, 3e-3),
        aliases=("optimi/stable_adamw",),
        traits=Traits(adam_fields=True, clips_updates=True),
        implementations=(
            Implementation(
                name="upstream",
                target="optimi:StableAdamW",
                package="torch-optimi",
                licence="MIT",
                mends=("no_triton_on_a_cpu",),
                hyperparameters=(
                    lr(1e-3),
                    betas(0.9, 0.99),
                    weight_decay(1e-2),
                    eps(1e-6),
                    flag("decouple_lr", "weight decay that does not scale with the learning rate"),
                    Hyperparameter("max_lr", float | None, None, "peak learning rate, for decouple_lr", POSITIVE),
                    optional_flag("kahan_sum", "Kahan summation for low-precision weights; none: where useful"),
                    FOREACH,
                    optional_flag("triton", "Triton kernels; none: where possible"),
                    *WHERE_AND_WHEN,
                ),
                refused={"gradient_release": "fused_backward=true does the same, with any trainer"},
            ),
        ),
    ),
)
