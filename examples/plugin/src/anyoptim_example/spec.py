"""What ``example_sign`` means, as data: this module imports no torch, so it costs nothing to list."""

from __future__ import annotations

from anyoptim import FUSED_BACKWARD, Hyperparameter, Implementation, Interval, OptimizerSpec

SIGN = OptimizerSpec(
    name="example_sign",
    summary="Sign descent: every element of a weight moves by the learning rate",
    paper="arXiv 1802.04434",
    usual_lr=(1e-5, 1e-2),
    implementations=(
        Implementation(
            name="upstream",
            target="anyoptim_example:Sign",
            package="anyoptim-example",
            licence="Apache-2.0",
            hyperparameters=(
                Hyperparameter("lr", float, 1e-3, "how far each element moves", Interval(low=0.0)),
                FUSED_BACKWARD,  # each parameter is updated from its own gradient alone
            ),
        ),
    ),
)
