"""The optimizers that transformers ships itself. Source: transformers/optimization.py"""

from __future__ import annotations

from anyoptim.catalog._shared import FUSED_BACKWARD, POSITIVE, flag, weight_decay
from anyoptim.spec import Hyperparameter, Implementation, Interval, OptimizerSpec

SPECS = (
    OptimizerSpec(
        name="adafactor",
        summary="Adafactor of transformers, at a learning rate of your own",
        paper="arXiv 1804.04235",
        usual_lr=(1e-5, 1e-2),
        aliases=("transformers/adafactor",),
        implementations=(
            Implementation(
                name="upstream",
                target="transformers.optimization:Adafactor",
                package="transformers",
                extra="transformers",
                licence="Apache-2.0",
                shards=False,
                hyperparameters=(
                    Hyperparameter("lr", float | None, 1e-3, "learning rate; none with relative_step"),
                    Hyperparameter(
                        "eps",
                        tuple[float, float],
                        (1e-30, 1e-3),
                        "for the squared gradient, for the parameter scale",
                        Interval(low=0.0),
                    ),
                    Hyperparameter("clip_threshold", float, 1.0, "RMS at which an update is clipped", POSITIVE),
                    Hyperparameter("decay_rate", float, -0.8, "exponent of the second moment's decay"),
                    Hyperparameter("beta1", float | None, None, "decay rate of the first moment, if any"),
                    weight_decay(),
                    flag("scale_parameter", "scale the learning rate by the parameter's RMS"),
                    flag("relative_step", "time-dependent learning rate instead of lr"),
                    flag("warmup_init", "start relative_step from a small rate"),
                    FUSED_BACKWARD,
                ),
            ),
        ),
    ),
)
