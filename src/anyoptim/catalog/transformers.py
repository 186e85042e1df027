"""The optimizers that transformers ships itself. Source: transformers/optimization.py"""

from __future__ import annotations

from anyoptim.catalog._shared import ADAFACTOR, FUSED_BACKWARD, RELATIVE_STEP
from anyoptim.spec import Hyperparameter, Implementation, OptimizerSpec

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
                    *ADAFACTOR,
                    *RELATIVE_STEP,
                    FUSED_BACKWARD,
                ),
            ),
        ),
    ),
)
