"""Hyperparameters that many constructors share, with the ranges their constructors enforce."""

from __future__ import annotations

from typing import Any

from anyoptim.catalog._held import held_between_steps
from anyoptim.names.hyperparameters import Hyperparameter, Interval
from anyoptim.names.role import EVERY_ROLE, Role
from anyoptim.names.spec import Across, Implementation

NON_NEGATIVE = Interval(low=0.0, open_high=True)
"""And finite: an infinite rate makes every weight NaN."""
NON_POSITIVE = Interval(high=0.0, open_low=True)
POSITIVE = Interval(low=0.0, open_low=True, open_high=True)
CLIPS = Interval(low=0.0, open_low=True)
"""Where infinity clips nothing."""
AT_LEAST_ONE = Interval(low=1.0, open_high=True)
FRACTION = Interval(low=0.0, high=1.0)
DECAY = Interval(low=0.0, high=1.0, open_high=True)
"""Of an average: from 1 on, what is added up never fades."""


def lr(default: float | None) -> Hyperparameter:
    return Hyperparameter("lr", float, default, "learning rate", NON_NEGATIVE)


def betas(first: float = 0.9, second: float = 0.999) -> Hyperparameter:
    return Hyperparameter("betas", tuple[float, float], (first, second), "decay rates of the moment estimates", DECAY)


def eps(default: float = 1e-8) -> Hyperparameter:
    return Hyperparameter("eps", float, default, "added to the denominator", NON_NEGATIVE)


def weight_decay(default: float = 0.0, help: str = "decoupled weight decay") -> Hyperparameter:
    return Hyperparameter("weight_decay", float, default, help, NON_NEGATIVE)


def flag(name: str, help: str, default: bool = False) -> Hyperparameter:
    return Hyperparameter(name, bool, default, help)


def optional_flag(name: str, help: str, default: bool | None = None) -> Hyperparameter:
    return Hyperparameter(name, bool | None, default, help)


def momentum(default: float = 0.0) -> Hyperparameter:
    return Hyperparameter("momentum", float, default, "momentum factor", DECAY)


ADAFACTOR = (
    Hyperparameter(
        "eps",
        tuple[float, float],
        (1e-30, 1e-3),
        "for the squared gradient, for the parameter scale",
        NON_NEGATIVE,
    ),
    Hyperparameter("clip_threshold", float, 1.0, "RMS at which an update is clipped", CLIPS),
    Hyperparameter("decay_rate", float, -0.8, "exponent of the second moment's decay", NON_POSITIVE),
    Hyperparameter("beta1", float | None, None, "decay rate of the first moment, if any", DECAY),
    weight_decay(),
    flag("scale_parameter", "scale the learning rate by the parameter's RMS"),
)
"""Adafactor's but for its learning rate."""
OPTIONAL_LR = Hyperparameter("lr", float | None, 1e-3, "learning rate; none with relative_step", NON_NEGATIVE)
RELATIVE_STEP = (
    flag("relative_step", "time-dependent learning rate instead of lr"),
    flag("warmup_init", "start relative_step from a small rate"),
)
OWN_STEP_SIZE: dict[str, Any] = {"own_step_size": True, "mends": ("rate_in_groups",)}
"""Of what steps without a learning rate; schedulers need one."""
DISTANCE = "its step size is estimated from all parameters together"
"""Of D-Adaptation and Prodigy, which read the settings of the estimate in one group."""
SHARDED_REFUSED = "torch's sharded tensors refuse its operations"
SHARDED_PLAIN = "its state is plain tensors"
SHARDED_PART = "it computes from each process's own part of a matrix"
SHARDED_KERNELS = "its kernels know no sharded tensors"
SHARDED_GRAPH = "FSDP2 gathers gradients where autograd does not see it"
"""Why a step fails on the sharded parameters of FSDP2."""
MAXIMIZE = flag("maximize", "ascend instead of descend")
FOREACH = optional_flag("foreach", "update all tensors in batched calls")
CAPTURABLE = flag("capturable", "safe to capture in a CUDA graph")
DIFFERENTIABLE = flag("differentiable", "let autograd record the step")
FUSED = optional_flag("fused", "one kernel for the whole update")


def native(
    target: str,
    *hyperparameters: Hyperparameter,
    unsupported: dict[str, str] | None = None,
    target_roles: frozenset[Role] = EVERY_ROLE,
    refused: dict[str, str] | None = None,
    step_copies: int = 0,
    by_place: bool = False,
    across: Across = "",
    owned_with: dict[str, object] | None = None,
    unsteady: dict[str, str] | None = None,
    fused_form: str = "",
) -> Implementation:
    """An engine of our own; ``target`` is ``"file:Class"`` below ``anyoptim.engines``."""
    return Implementation(
        name="native",
        target=f"anyoptim.engines.{target}",
        package="anyoptim",
        licence="Apache-2.0",
        hyperparameters=hyperparameters,
        unsupported=unsupported or {},
        target_roles=target_roles,
        refused=refused or {},
        step_copies=step_copies,
        by_place=by_place,
        across=across,
        owned_with=owned_with or {},
        fused_form=fused_form,
        unsteady=unsteady or {},
        **held_between_steps(f"anyoptim.engines.{target}"),
    )
