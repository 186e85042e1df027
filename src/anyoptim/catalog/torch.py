"""torch.optim. Source: https://docs.pytorch.org/docs/stable/optim.html"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from anyoptim.catalog._held import held_between_steps
from anyoptim.catalog._index import Facts, indexed
from anyoptim.catalog._shared import (
    CAPTURABLE,
    DECAY,
    DIFFERENTIABLE,
    FOREACH,
    FRACTION,
    FUSED,
    MAXIMIZE,
    NON_NEGATIVE,
    betas,
    eps,
    flag,
    lr,
    momentum,
    weight_decay,
)
from anyoptim.names.composing import variant
from anyoptim.names.hyperparameters import WHERE_AND_WHEN, Hyperparameter
from anyoptim.names.spec import Implementation, OptimizerSpec, Traits

_L2 = "L2 penalty added to the gradient"


_FP16 = {"fp16": "its eps is zero in float16"}


def _torch(
    name: str,
    *hyperparameters: Hyperparameter,
    limits: Mapping[str, str] = MappingProxyType({}),
    fused_form: str = "",
) -> tuple[Implementation, ...]:
    return (
        Implementation(
            name="upstream",
            target=f"torch.optim:{name}",
            hyperparameters=(*hyperparameters, *WHERE_AND_WHEN),
            package="torch",
            licence="BSD-3-Clause",
            limits=limits,
            fused_form=fused_form,
            **held_between_steps(f"torch.optim:{name}"),
        ),
    )


ADAMW = OptimizerSpec(
    name="adamw_torch",
    summary="AdamW of torch.optim",
    paper="arXiv 1711.05101",
    usual_lr=(1e-6, 3e-3),
    aliases=("adamw", "torch/adamw"),
    traits=Traits(adam_fields=True, flat_pieces=True),
    implementations=_torch(
        "AdamW",
        lr(1e-3),
        betas(),
        eps(),
        weight_decay(1e-2),
        flag("amsgrad", "keep the maximum of the second moment"),
        MAXIMIZE,
        FOREACH,
        CAPTURABLE,
        DIFFERENTIABLE,
        FUSED,
        limits=_FP16,
        fused_form="adamw",
    ),
)

# the fused kernel computes in float32
_FUSED = variant(ADAMW, "adamw_torch_fused", summary="AdamW of torch.optim, one fused kernel per step", fused=True)
_FUSED = replace(_FUSED, implementations=tuple(replace(each, limits={}) for each in _FUSED.implementations))

SPECS = (
    *indexed(
        "torch",
        licence="BSD-3-Clause",
        limits={
            "schedule": {
                "a changed rate applies one step late": "asgd",
                "its step sizes are its own after the first step": "rprop",
            },
            "fp16": {_FP16["fp16"]: "adam adamax nadam radam"},
            "memory": {"its history grows over the first steps": "lbfgs"},
            "sharded checkpoints": {"its history is made over many steps, and of all parameters together": "lbfgs"},
        },
        unsteady={check: {"weights become NaN at its own rate": "lbfgs"} for check in ("trains", "bf16", "fp16")},
        facts={
            "adam": Facts(name="adam"),
            "adamax": Facts(name="adamax"),
            "adadelta": Facts(name="adadelta"),
            "asgd": Facts(name="asgd"),
            "nadam": Facts(name="nadam"),
            "radam": Facts(name="radam"),
            "rprop": Facts(name="rprop"),
            "lbfgs": Facts(
                name="lbfgs",
                traits=Traits(needs_closure=True),
                implementation={"takes": "parameters"},
            ),
            "sparseadam": Facts(
                name="sparse_adam",
                implementation={"unusable": "it takes sparse gradients only, as of nn.Embedding(sparse=True)"},
            ),
        },
    ),
    ADAMW,
    _FUSED,
    OptimizerSpec(
        name="sgd",
        summary="Stochastic gradient descent of torch.optim",
        usual_lr=(1e-3, 0.5),
        aliases=("torch/sgd",),
        traits=Traits(flat_pieces=True),
        implementations=_torch(
            "SGD",
            lr(1e-3),
            momentum(),
            Hyperparameter("dampening", float, 0.0, "dampening of the momentum", FRACTION),
            weight_decay(help=_L2),
            flag("nesterov", "Nesterov momentum"),
            MAXIMIZE,
            FOREACH,
            DIFFERENTIABLE,
            FUSED,
            fused_form="sgd",
        ),
    ),
    OptimizerSpec(
        name="adagrad",
        summary="Adagrad of torch.optim",
        paper="https://jmlr.org/papers/v12/duchi11a.html",
        usual_lr=(1e-4, 1e-2),
        aliases=("torch/adagrad",),  # DeepSpeed builds it anew with one group, and fails
        implementations=_torch(
            "Adagrad",
            lr(1e-2),
            Hyperparameter("lr_decay", float, 0.0, "decay of the learning rate", NON_NEGATIVE),
            weight_decay(help=_L2),
            Hyperparameter("initial_accumulator_value", float, 0.0, "first sum of squares", NON_NEGATIVE),
            eps(1e-10),
            FOREACH,
            MAXIMIZE,
            DIFFERENTIABLE,
            FUSED,
            limits=_FP16,
        ),
    ),
    OptimizerSpec(
        name="rmsprop",
        summary="RMSprop of torch.optim",
        paper="https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf",
        usual_lr=(1e-5, 1e-3),
        aliases=("torch/rmsprop",),
        traits=Traits(flat_pieces=True),
        implementations=_torch(
            "RMSprop",
            lr(1e-2),
            Hyperparameter("alpha", float, 0.99, "decay rate of the mean square", DECAY),
            eps(),
            weight_decay(help=_L2),
            momentum(),
            flag("centered", "divide by the variance instead of the mean square"),
            CAPTURABLE,
            FOREACH,
            MAXIMIZE,
            DIFFERENTIABLE,
            limits=_FP16,
        ),
    ),
)
