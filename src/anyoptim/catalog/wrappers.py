"""Optimizers around another one, ``lookahead(lion)``: engines of our own, and torchao's CPU offload."""

from __future__ import annotations

from anyoptim.catalog._shared import AT_LEAST_ONE, FRACTION, NON_NEGATIVE, POSITIVE, flag, native
from anyoptim.names.hyperparameters import Hyperparameter, Interval
from anyoptim.names.spec import Implementation, OptimizerSpec, Traits

_TWO_SETS = "it would average or move weights that a schedule-free optimizer swaps with its average"
_BETWEEN = Interval(low=0.0, high=1.0, open_low=True, open_high=True)
_TWICE = "both would evaluate the loss again, each at weights of its own"

SPECS = (
    OptimizerSpec(
        name="lookahead",
        summary="Lookahead: slow weights that follow the fast ones every k steps",
        paper="arXiv 1907.08610",
        implementations=(
            native(
                "lookahead:Lookahead",
                Hyperparameter("k", int, 5, "fast steps for a slow one", AT_LEAST_ONE),
                Hyperparameter("alpha", float, 0.5, "part of the way that slow weights go", FRACTION),
            ),
        ),
        cannot_wrap={"schedule_free": _TWO_SETS},
    ),
    OptimizerSpec(
        name="orthograd",
        summary="OrthoGrad: only the part of a gradient that is orthogonal to its weight",
        paper="arXiv 2501.04697",
        implementations=(
            native(
                "orthograd:OrthoGrad",
                Hyperparameter("eps", float, 1e-30, "added to the norms that are divided by", POSITIVE),
            ),
        ),
        cannot_wrap={"needs_closure": "the gradients it projects are not those the closure computes"},
    ),
    OptimizerSpec(
        name="cautious",
        traits=Traits(needs_rate=True),
        summary="Cautious: only the part of an update that agrees with the gradient's sign",
        paper="arXiv 2411.16085",
        implementations=(
            native(
                "cautious:Cautious",
                Hyperparameter("eps", float, 1e-3, "least share of elements that agree", POSITIVE),
                step_copies=2,
            ),
        ),
        cannot_wrap={
            "schedule_free": _TWO_SETS,
            "needs_closure": "the gradient it compares with is not the one the closure computes",
        },
    ),
    OptimizerSpec(
        name="schedule_free",
        summary="schedule-free: an average of the weights in the place of a schedule",
        paper="arXiv 2405.15682",
        traits=Traits(schedule_free=True, needs_rate=True),
        implementations=(
            native(
                "schedule_free:ScheduleFree",
                Hyperparameter("momentum", float, 0.9, "between the newest weights (0) and the average (1)", _BETWEEN),
                Hyperparameter("weight_lr_power", float, 2.0, "power of the learning rate in the average's weights"),
                Hyperparameter("r", float, 0.0, "power of the step in the average's weights"),
                step_copies=1,
            ),
        ),
        cannot_wrap={
            "schedule_free": "the optimizer inside averages weights already",
            "needs_closure": "the closure has to see the average's training weights, not those that are stepped",
        },
    ),
    OptimizerSpec(
        name="sam",
        summary="SAM: the gradient from the point nearby where the loss is highest",
        paper="arXiv 2010.01412, arXiv 2102.11600",
        traits=Traits(needs_closure=True),
        implementations=(
            native(
                "sam:SAM",
                Hyperparameter("rho", float, 0.05, "distance of that point", NON_NEGATIVE),
                flag("adaptive", "measure it relative to each weight (ASAM)"),
                step_copies=1,
            ),
        ),
        cannot_wrap={"needs_closure": _TWICE, "second_order": _TWICE},
    ),
    OptimizerSpec(
        name="cpu_offload",
        summary="torchao's CPU offload: state, and optionally gradients, in the CPU's memory",
        aliases=("torchao/cpu_offload",),
        implementations=(
            Implementation(
                name="upstream",
                target="anyoptim.building.mends:offloaded_to_cpu",
                package="torchao",
                extra="torchao",
                licence="BSD-3-Clause",
                device="cuda",
                limits={"FSDP2": "torchao moves plain tensors"},
                hyperparameters=(
                    flag("offload_gradients", "gradients, too; not with gradient accumulation"),
                    Hyperparameter("minimal_size", int, 4096, "elements below which state stays", NON_NEGATIVE),
                ),
            ),
        ),
        cannot_wrap={
            "schedule_free": _TWO_SETS,
            "needs_closure": "torchao's offload takes no closure",
            "second_order": "torchao's offload moves the gradients",
            "needs_targets": "torchao builds one optimizer for each parameter",
        },
    ),
)
