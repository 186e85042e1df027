"""What transformers ships itself, and what only it names. Source: transformers/optimization.py, trainer_optimizer.py"""

from __future__ import annotations

from anyoptim.catalog._shared import (
    ADAFACTOR,
    OPTIONAL_LR,
    OWN_STEP_SIZE,
    RELATIVE_STEP,
    betas,
    eps,
    flag,
    lr,
    weight_decay,
)
from anyoptim.names.hyperparameters import ITS_OWN, WHERE_AND_WHEN, Hyperparameter
from anyoptim.names.spec import Implementation, OptimizerSpec, Traits

_ADAMW = (lr(1e-3), betas(), eps(), weight_decay(1e-2))


def _dtype(name: str, default: str, help: str) -> Hyperparameter:
    return Hyperparameter(name, "torch.dtype", ITS_OWN, f"{help}; {default} by default")


def _on_another_device(name: str, summary: str, target: str, package: str, device: str) -> OptimizerSpec:
    return OptimizerSpec(
        name=name,
        summary=summary,
        paper="arXiv 1711.05101",
        usual_lr=(1e-6, 3e-3),
        traits=Traits(adam_fields=True),
        implementations=(
            Implementation(
                name="upstream",
                target=target,
                package=package,
                licence="BSD-3-Clause",
                device=device,
                hyperparameters=(*_ADAMW, flag("amsgrad", "keep the maximum of the second moment")),
            ),
        ),
    )


SPECS = (
    _on_another_device(
        "adamw_torch_xla",
        "AdamW of torch_xla, which does not wait for the device",
        "torch_xla.amp.syncfree:AdamW",
        "torch-xla",
        "xla",
    ),
    _on_another_device(
        "adamw_torch_npu_fused",
        "AdamW of torch_npu, one fused kernel per step on an Ascend NPU",
        "torch_npu.optim:NpuFusedAdamW",
        "torch-npu",
        "npu",
    ),
    OptimizerSpec(
        name="adamw_anyprecision",
        summary="AdamW whose moments may have other dtypes than the weights, with Kahan summation",
        paper="https://github.com/pytorch/torchdistx",
        usual_lr=(1e-6, 3e-3),
        traits=Traits(adam_fields=True),
        implementations=(
            Implementation(
                name="upstream",
                target="torchdistx.optimizers:AnyPrecisionAdamW",
                package="torchdistx",
                licence="BSD-3-Clause",
                install="see github.com/pytorch/torchdistx (it is no longer developed; not on PyPI)",
                hyperparameters=(
                    *_ADAMW,
                    flag("use_kahan_summation", "Kahan summation for low-precision weights"),
                    _dtype("momentum_dtype", "bfloat16", "dtype of the first moment"),
                    _dtype("variance_dtype", "bfloat16", "dtype of the second moment"),
                    _dtype("compensation_buffer_dtype", "bfloat16", "dtype of Kahan's compensation"),
                ),
            ),
        ),
    ),
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
                across="owned",
                **OWN_STEP_SIZE,
                hyperparameters=(
                    OPTIONAL_LR,
                    *ADAFACTOR,
                    *RELATIVE_STEP,
                    *WHERE_AND_WHEN,
                ),
            ),
        ),
    ),
)
