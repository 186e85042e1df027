"""Schedule-free optimizers. Source: https://github.com/facebookresearch/schedule_free"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from anyoptim.catalog._held import held_between_steps
from anyoptim.catalog._index import Facts, indexed
from anyoptim.catalog._shared import DECAY, NON_NEGATIVE, betas, eps, flag, lr, optional_flag, weight_decay
from anyoptim.names.hyperparameters import WHERE_AND_WHEN, Hyperparameter
from anyoptim.names.spec import Implementation, OptimizerSpec, Traits

_WARMUP = Hyperparameter("warmup_steps", int, 0, "steps of the optimizer's own linear warmup", NON_NEGATIVE)
_AVERAGING = (
    Hyperparameter("r", float, 0.0, "power of the step in the average's weights"),
    Hyperparameter("weight_lr_power", float, 2.0, "power of the learning rate in the average's weights"),
)
_FOREACH = optional_flag("foreach", "update all tensors in batched calls", default=True)
_L2 = weight_decay(help="L2 penalty, taken at the training weights")


_FP16 = "its eps is zero in float16"


def _schedule_free(
    name: str, *hyperparameters: Hyperparameter, limits: Mapping[str, str] = MappingProxyType({})
) -> tuple[Implementation, ...]:
    return (
        Implementation(
            name="upstream",
            target=f"schedulefree:{name}",
            package="schedulefree",
            licence="Apache-2.0",
            hyperparameters=(*hyperparameters, _L2, *_AVERAGING, _FOREACH, *WHERE_AND_WHEN),
            applied_lr="scheduled_lr",
            limits=limits,
            **held_between_steps(f"schedulefree:{name}"),
        ),
    )


SPECS = (
    *indexed(
        "schedulefree",
        licence="Apache-2.0",
        traits=Traits(schedule_free=True),
        limits={
            "fp16": {
                _FP16: (
                    "adamwschedulefreeclosure adamwschedulefreepaper adamwschedulefreereference"
                    " radamschedulefreeclosure"
                )
            }
        },
        facts={
            name: Facts(traits=Traits(schedule_free=True, needs_closure=True))
            for name in ("adamwschedulefreeclosure", "radamschedulefreeclosure", "sgdschedulefreeclosure")
        },
    ),
    OptimizerSpec(
        name="schedule_free_radamw",
        summary="Schedule-free RAdam: no learning-rate schedule and no warmup",
        paper="arXiv 2405.15682",
        usual_lr=(1e-5, 1e-2),
        aliases=("schedule_free_radam", "schedulefree/radam"),
        traits=Traits(schedule_free=True, adam_fields=True),
        implementations=_schedule_free(
            "RAdamScheduleFree",
            lr(2.5e-3),
            betas(),
            eps(),
            flag("silent_sgd_phase", "leave the weights alone in RAdam's first steps", default=True),
            limits={"fp16": _FP16, "torch.compile": "torch's tracing of its step fails"},
        ),
    ),
    OptimizerSpec(
        name="schedule_free_adamw",
        summary="Schedule-free AdamW: no learning-rate schedule",
        paper="arXiv 2405.15682",
        usual_lr=(1e-5, 1e-2),
        aliases=("schedulefree/adamw",),
        traits=Traits(schedule_free=True, adam_fields=True),
        implementations=_schedule_free(
            "AdamWScheduleFree", lr(2.5e-3), betas(), eps(), _WARMUP, limits={"fp16": _FP16}
        ),
    ),
    OptimizerSpec(
        name="schedule_free_sgd",
        summary="Schedule-free SGD: no learning-rate schedule",
        paper="arXiv 2405.15682",
        usual_lr=(1e-2, 1.0),
        aliases=("schedulefree/sgd",),
        traits=Traits(schedule_free=True),
        implementations=_schedule_free(
            "SGDScheduleFree",
            lr(1.0),
            Hyperparameter("momentum", float, 0.9, "interpolation between average and newest weights", DECAY),
            _WARMUP,
        ),
    ),
)
