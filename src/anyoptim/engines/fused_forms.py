"""Updates as pure functions of fp32 tensors, in the operations and the order of the classes that they stand for.

Sources: AdamW, arXiv 1711.05101, algorithm 2; Lion, arXiv 2302.06675, program 1; momentum, as in torch.optim.SGD;
our engines' own. Where whole matrices are multiplied between unpacking and packing, as in Muon or on the low-rank
matrices of APOLLO and GaLore, there is no form: the transforms are compiled, and the products are torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anyoptim.engines.arithmetic import bias_correction

Tensors = Mapping[str, Tensor]
Update = Callable[[Tensor, Tensor, Tensors, Tensors], tuple[Tensor, dict[str, Tensor]]]
"""Of a weight, its gradient, its state and the numbers of a step makes the weight and the state after it."""


@dataclass(frozen=True)
class FusedForm:
    """What a class of optimizers does to one parameter in one step.

    Args:
        update: see :data:`Update`.
        state: of a group: the keys of state of a parameter's size.
        numbers: of a group and a step's count, from 1: what an update takes besides tensors. The keys say what it does.
        counter: the key of state that counts steps; empty: none.
        off: keys of groups that it needs to be false or not there.
        only: values that it needs keys of groups to have, or not to be there.
        signs: keys of state, each with whether it has negative values.
    """

    update: Update
    state: Callable[[Mapping[str, Any]], tuple[str, ...]]
    numbers: Callable[[Mapping[str, Any], int], dict[str, float]]
    counter: str = ""
    off: tuple[str, ...] = ()
    only: Mapping[str, object] = field(default_factory=dict)
    signs: tuple[tuple[str, bool], ...] = ()

    def does(self, group: Mapping[str, Any]) -> bool:
        """Whether it does what a group is set to."""
        tensors = any(isinstance(value, Tensor) for value in group.values())
        others = any(group.get(key, value) != value for key, value in self.only.items())
        return not tensors and not others and not any(group.get(key) for key in self.off)


# ---------------------------------------------------------------- AdamW


def _adamw(weight: Tensor, gradient: Tensor, state: Tensors, numbers: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
    weight = weight * numbers["kept"]
    first = torch.lerp(state["exp_avg"], gradient, numbers["new_of_first"])
    second = state["exp_avg_sq"] * numbers["old_of_second"] + numbers["new_of_second"] * gradient * gradient
    denominator = second.sqrt() * numbers["corrected"] + numbers["eps"]
    return weight + numbers["step"] * first / denominator, {"exp_avg": first, "exp_avg_sq": second}


def _numbers_of_adamw(group: Mapping[str, Any], count: int) -> dict[str, float]:
    (beta1, beta2), lr = group["betas"], group["lr"]
    return {
        "kept": 1 - lr * group["weight_decay"],
        "new_of_first": 1 - beta1,
        "old_of_second": beta2,
        "new_of_second": 1 - beta2,
        "corrected": (1 - beta2**count) ** -0.5,
        "eps": group["eps"],
        "step": -lr / (1 - beta1**count),
    }


# ---------------------------------------------------------------- AdamW beside low-rank matrices


def _plain_adamw(
    weight: Tensor, gradient: Tensor, state: Tensors, numbers: Tensors
) -> tuple[Tensor, dict[str, Tensor]]:
    first = torch.lerp(state["exp_avg"], gradient, numbers["new_of_first"])
    second = state["exp_avg_sq"] * numbers["old_of_second"] + numbers["new_of_second"] * gradient * gradient
    weight = weight + numbers["step"] * first / (second.sqrt() + numbers["eps"])
    return weight + weight * numbers["decay"], {"exp_avg": first, "exp_avg_sq": second}


def _numbers_of_plain_adamw(group: Mapping[str, Any], count: int) -> dict[str, float]:
    (beta1, beta2), lr = group["betas"], group["lr"]
    return {
        "new_of_first": 1 - beta1,
        "old_of_second": beta2,
        "new_of_second": 1 - beta2,
        "eps": group["eps"],
        "step": -lr * (bias_correction(group["betas"], count) if group["correct_bias"] else 1.0),
        "decay": -lr * group["weight_decay"],
    }


# ---------------------------------------------------------------- Lion


def _lion(weight: Tensor, gradient: Tensor, state: Tensors, numbers: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
    average = state["exp_avg"]
    direction = torch.lerp(average, gradient, numbers["new_of_update"]).sign()
    after = torch.lerp(average, gradient, numbers["new_of_average"])
    return weight * numbers["kept"] + direction * numbers["step"], {"exp_avg": after}


def _numbers_of_lion(group: Mapping[str, Any], count: int) -> dict[str, float]:
    beta1, beta2 = group["betas"] if "betas" in group else (group["beta1"], group["beta2"])
    lr = group["lr"]
    return {
        "kept": 1 - lr * group["weight_decay"],
        "new_of_update": 1 - beta1,
        "new_of_average": 1 - beta2,
        "step": -lr,
    }


# ---------------------------------------------------------------- LOMO


def _lomo(weight: Tensor, gradient: Tensor, state: Tensors, numbers: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
    return weight * numbers["kept"] + gradient * numbers["step"], {}


def _numbers_of_lomo(group: Mapping[str, Any], count: int) -> dict[str, float]:
    return {"kept": 1 - group["lr"] * group["weight_decay"], "step": -group["lr"]}


# ---------------------------------------------------------------- SGD


def _sgd(weight: Tensor, gradient: Tensor, state: Tensors, numbers: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
    if "decay" in numbers:
        gradient = gradient + weight * numbers["decay"]
    after: dict[str, Tensor] = {}
    if "momentum" in numbers:
        momentum = numbers["momentum"]
        buffer = state["momentum_buffer"] * momentum + gradient * numbers["new_of_momentum"]
        after = {"momentum_buffer": buffer}
        gradient = gradient + buffer * momentum if "nesterov" in numbers else buffer
    return weight + gradient * numbers["step"], after


def _numbers_of_sgd(group: Mapping[str, Any], count: int) -> dict[str, float]:
    numbers = {"step": -group["lr"]}
    if group["weight_decay"]:
        numbers["decay"] = group["weight_decay"]
    if group["momentum"]:
        numbers |= {"momentum": group["momentum"], "new_of_momentum": 1 - group["dampening"]}
        numbers |= {"nesterov": 1.0} if group["nesterov"] else {}
    return numbers


_OF_MOMENTS = (("exp_avg", True), ("exp_avg_sq", False))

FORMS: Mapping[str, FusedForm] = {
    "adamw": FusedForm(
        _adamw,
        lambda group: ("exp_avg", "exp_avg_sq"),
        _numbers_of_adamw,
        counter="step",
        off=("amsgrad", "maximize", "capturable", "differentiable"),
        signs=_OF_MOMENTS,
    ),
    "low_rank": FusedForm(
        _plain_adamw,
        lambda group: ("exp_avg", "exp_avg_sq"),
        _numbers_of_plain_adamw,
        counter="step",
        off=("rank",),
        only={"optim_bits": 32},
        signs=_OF_MOMENTS,
    ),
    "lion": FusedForm(
        _lion,
        lambda group: ("exp_avg",),
        _numbers_of_lion,
        signs=(("exp_avg", True),),
        off=("caution", "corrected_weight_decay", "maximize", "decouple_lr", "gradient_release"),
    ),
    "lomo": FusedForm(_lomo, lambda group: (), _numbers_of_lomo, off=("clip_grad_value",)),
    "sgd": FusedForm(
        _sgd,
        lambda group: ("momentum_buffer",) if group["momentum"] else (),
        _numbers_of_sgd,
        off=("maximize", "differentiable"),
        signs=(("momentum_buffer", True),),
    ),
}
"""By the name that ``Implementation.fused_form`` has for it."""
