"""LOMO and AdaLomo: engines of our own; upstream is https://github.com/OpenLMLab/LOMO (lomo-optim, MIT)."""

from __future__ import annotations

from dataclasses import replace

from anyoptim.catalog._shared import CLIPS, NON_NEGATIVE, NON_POSITIVE, lr, native, weight_decay
from anyoptim.names.composing import upstream
from anyoptim.names.hyperparameters import FUSED_BACKWARD, STORAGE, Hyperparameter
from anyoptim.names.spec import Implementation, OptimizerSpec

_FUSED = replace(FUSED_BACKWARD, default=True)
_CLIP_VALUE = Hyperparameter("clip_grad_value", float | None, None, "clamp gradients to [-value, value]", CLIPS)
_CLIP_NORM = Hyperparameter("clip_grad_norm", float | None, None, "clip the norm, in two backward passes", CLIPS)
_ADALOMO = (
    lr(1e-3),
    Hyperparameter(
        "eps", tuple[float, float], (1e-30, 1e-3), "for the squared gradient, for the parameter's RMS", NON_NEGATIVE
    ),
    Hyperparameter("clip_threshold", float, 1.0, "RMS at which an update is clipped", CLIPS),
    Hyperparameter("decay_rate", float, -0.8, "exponent of the second moment's decay", NON_POSITIVE),
    _CLIP_VALUE,
    weight_decay(),
)


def _upstream(
    name: str,
    *hyperparameters: Hyperparameter,
    refused: dict[str, str] | None = None,
    limits: dict[str, str] | None = None,
    unsteady: dict[str, str] | None = None,
) -> Implementation:
    return Implementation(
        name="upstream",
        target=f"lomo_optim:{name}",
        package="lomo-optim",
        extra="lomo",
        licence="MIT",
        takes="model",
        updates_in_backward=True,
        hyperparameters=hyperparameters,
        refused=refused or {},
        limits=limits or {},
        unsteady=unsteady or {},
    )


_EVERY_CHECK = (
    *("builds", "trains", "weights_only", "traits", "typed arguments", "decay groups", "schedule", "None gradients"),
    *(
        "bf16",
        "fp16",
        "device",
        "accumulation",
        "torch.compile",
        "memory",
        "FSDP2",
        "deepcopy and pickle",
        "load hooks",
        "other state",
    ),
)
_ENGINES = (
    OptimizerSpec(
        name="lomo",
        summary="LOMO: SGD inside the backward pass, no gradients kept and no optimizer state",
        paper="arXiv 2306.09782",
        usual_lr=(1e-3, 0.1),
        implementations=(
            native("lomo:Lomo", lr(1e-3), _CLIP_VALUE, weight_decay(), _FUSED, *STORAGE, fused_form="lomo"),
            _upstream(
                "Lomo",
                lr(1e-3),
                _CLIP_NORM,
                _CLIP_VALUE,
                weight_decay(),
                limits={
                    **dict.fromkeys(
                        (
                            "traits",
                            "schedule",
                            "None gradients",
                            "bf16",
                            "fp16",
                            "device",
                            "torch.compile",
                            "memory",
                            "FSDP2",
                            "deepcopy and pickle",
                            "load hooks",
                            "other state",
                        ),
                        "its step is a backward pass of its own",
                    ),
                    "accumulation": "it updates on every micro-batch",
                    "decay groups": "it has no param groups",
                },
                refused={"loss_scale_args": "fp16 loss scaling is not supported; train in bf16"},
            ),
        ),
    ),
    OptimizerSpec(
        name="adalomo",
        summary="AdaLomo: adaptive LOMO with a factored second moment, updates inside the backward pass",
        paper="arXiv 2310.10195",
        usual_lr=(1e-4, 3e-2),
        implementations=(
            native("adalomo:AdaLomo", *_ADALOMO, _FUSED, *STORAGE),
            _upstream(
                "AdaLomo",
                *_ADALOMO,
                Hyperparameter("loss_scale", float, 1024.0, "factor of the loss during the backward pass"),
                _CLIP_NORM,
                limits={"resume": "its second moments are in no state dict"},
                unsteady=dict.fromkeys(_EVERY_CHECK, "it needs CUDA"),
            ),
        ),
    ),
)

SPECS = (*_ENGINES, *(upstream(spec, f"lomo_optim/{spec.name}") for spec in _ENGINES))
