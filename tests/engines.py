"""A model whose gradients do not depend on its weights, and every engine of ours or its rival, built on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from toys import NAMES

import anyoptim
from anyoptim.engines.composite import CompositeOptimizer
from anyoptim.engines.fused_backward import FusedBackward
from anyoptim.engines.owned import Owned
from anyoptim.names.hyperparameters import Hyperparameter

ENGINES = [name for name in NAMES if anyoptim.optimizer_info(name).default.name == "native"]
ALGORITHMS = list({anyoptim.optimizer_info(name).default.class_path: name for name in reversed(ENGINES)}.values())[::-1]
"""One name for each class of ours: tests that vary every hyperparameter need no other."""
RIVALS = [name for name in ENGINES if len(anyoptim.optimizer_info(name).implementations) > 1]
"""Those whose package's class is there as well."""
FUSED = [name for name in ENGINES if anyoptim.optimizer_info(name).fused_backward]
ORTHOGONAL = [
    name
    for name in ENGINES
    if any(each.name == "orthogonalize" for each in anyoptim.optimizer_info(name).hyperparameters)
]
"""Muon and what is made from it."""

MATRICES = {"tall": (12, 8), "wide": (6, 10), "square": (5, 5)}
SHAPES = {**MATRICES, "vector": (5,), "one": (1,), "empty": (0,)}
STACKS = {"stack": (3, 6, 4), "wide_stack": (2, 4, 7)}
EVERYTHING = {**SHAPES, **STACKS}


class Net(nn.Module):
    """Parameters of many shapes; the gradient of each is drawn from the number of the step.

    Every 20th gradient is ten times as large, so that a limiter has something to limit. The vector has
    no gradient in one step of ``pause``.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], pause: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.pause = pause
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator).to(dtype)))

    def forward(self, step: int) -> Tensor:
        drawn = gradients({name: each.shape for name, each in self.named_parameters()}, step)
        loss = torch.zeros(())
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and not (self.pause and name == "vector" and step % self.pause == 0):
                loss = loss + (parameter * drawn[name].to(parameter.dtype)).sum()
        return loss


def gradients(shapes: dict[str, Any], step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    size = 10.0 if step % 20 == 19 else 1.0
    return {name: torch.randn(shape, generator=generator) * size for name, shape in shapes.items()}


def build(name: str, model: nn.Module, implementation: str = "native", **given: Any) -> Any:
    """Call the constructor as a plan does; for low-rank names the matrices are the targets, of rank 2."""
    spec = anyoptim.optimizer_info(name)
    chosen = next(each for each in spec.implementations if each.name == implementation)
    given = {"rank": 2, **given}
    values = {
        each.name: given.get(each.name, each.default)
        for each in chosen.hyperparameters
        if each.scope not in ("routing", "facade") or each.name == "fused_backward"
    }
    constructor: Any = chosen.load()
    if chosen.across == "owned" and any(isinstance(each, DTensor) for each in model.parameters()):
        engine = constructor

        def constructor(*args: Any, **keywords: Any) -> Any:
            return Owned(engine(*args, **keywords))

    if chosen.takes == "model":
        return constructor(model, **values)
    wrap = FusedBackward if values.pop("fused_backward", False) else lambda optimizer: optimizer
    targets = {each.name: values.pop(each.name) for each in chosen.hyperparameters if each.scope == "target"}
    rest = {each.name: values.pop(each.name) for each in chosen.hyperparameters if each.scope == "fallback"}
    if not spec.traits.needs_targets:
        return wrap(constructor(list(model.parameters()), **values))
    flat = [each for each in model.parameters() if each.dim() < 2]
    matrices = [each for each in model.parameters() if each.dim() > 1]
    if spec.fallback is not None:
        keywords = {name.removeprefix("fallback_"): value for name, value in rest.items()}
        # a group without parameters is allowed, a list without groups is not
        others = spec.fallback.default.load()([{"params": flat}], **keywords)
        hybrid = {
            spec.fallback.name: others,
            spec.target_optimizer: constructor([{"params": matrices, **targets}], **values),
        }
        return wrap(CompositeOptimizer(hybrid))
    return wrap(constructor([{"params": flat}, {"params": matrices, **targets}], **values))


def run(model: nn.Module, optimizer: Any, steps: range, max_norm: float | None = None) -> Iterator[dict[str, Tensor]]:
    """Train, and yield the weights after every step; of a fused optimizer with its own clipping, if asked."""
    for step in steps:
        loss = model(step)
        if hasattr(optimizer, "fused_backward"):  # lomo_optim
            if max_norm is not None:
                optimizer.grad_norm(loss)
            optimizer.fused_backward(loss, optimizer.defaults["lr"])
        else:
            if max_norm is not None:
                optimizer.clip_grad_norm(loss, max_norm)
            loss.backward()
            optimizer.step()
        optimizer.zero_grad()
        yield {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def last(model: nn.Module, optimizer: Any, steps: range) -> dict[str, Tensor]:
    *_, weights = run(model, optimizer, steps)
    return weights


def distance(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The largest difference of two states of a :class:`Net`, relative to each parameter's size.

    The size is the larger of now and at the start: weight decay may bring a parameter to almost zero.
    """
    start = dict(Net({name: tuple(each.shape) for name, each in right.items()}).named_parameters())
    worst = 0.0
    for name, expected in right.items():
        if expected.numel():
            size = max(expected.abs().max().item(), start[name].abs().max().item())
            worst = max(worst, (left[name].double() - expected.double()).abs().max().item() / size)
    return worst


VALUES: dict[str, SearchStrategy[Any]] = {
    "lr": st.floats(1e-5, 0.1),
    "betas": st.tuples(st.floats(0.0, 0.99), st.floats(0.5, 0.9999)),
    "eps": st.floats(1e-8, 1e-2),
    "weight_decay": st.just(0.0) | st.floats(0.0, 1.0),
    "correct_bias": st.booleans(),
    "scale_front": st.booleans(),
    "disable_nl": st.booleans(),
    "rank": st.integers(1, 4),
    "scale": st.floats(0.1, 200.0),
    "update_proj_gap": st.integers(20, 50) | st.integers(1, 250),
    "keep_projection": st.booleans(),
    "alpha_init": st.floats(0.0, 1.0),
    "lamb": st.floats(0.0, 5.0),
    "gamma": st.floats(0.0, 1.0),
    "grokking_signal_fns": st.none() | st.lists(st.floats(0.0, 2.0).map(lambda value: lambda: value), max_size=2),
    "grokking_signal_decay_rate": st.floats(0.0, 2.0),
    "gradient_clipping": st.just(0.0) | st.floats(0.1, 20.0),
    "momentum": st.floats(0.0, 0.99),
    "nesterov": st.booleans(),
    "ns_coefficients": st.just((3.4445, -4.7750, 2.0315)) | st.just((2.0, -1.5, 0.5)),
    "ns_steps": st.integers(1, 6),
    "adjust_lr_fn": st.sampled_from([None, "original", "match_rms_adamw"]),
    "beta2": st.floats(0.0, 0.999),
    "sign": st.booleans(),
    "clip_grad_value": st.none() | st.floats(0.1, 3.0),
    "clip_threshold": st.floats(0.1, 5.0),
    "decay_rate": st.floats(-1.0, -0.1),
    "beta1": st.none() | st.floats(0.0, 0.99),
    "scale_parameter": st.booleans(),
}
OTHER_MEANINGS: dict[tuple[str, object], SearchStrategy[Any]] = {
    ("eps", (1e-30, 1e-3)): st.tuples(st.floats(1e-30, 1e-3), st.floats(1e-4, 1.0)),
    ("scale", 0.25): st.floats(0.05, 1.0),  # GaLore's, which is no square
}
"""Names that are something else in some constructors, known by their default there."""


def settings_of(name: str) -> SearchStrategy[dict[str, Any]]:
    """Every hyperparameter of a name, varied; of a hybrid's fallback those of AdamW's paper."""
    chosen: dict[str, SearchStrategy[Any]] = {}
    for each in anyoptim.optimizer_info(name).hyperparameters:
        own = replace(each, name=each.name.removeprefix("fallback_"))
        if each.scope == "fallback" and own.name not in ("lr", "betas", "eps", "weight_decay"):
            chosen[each.name] = st.just(each.default)
        elif each.scope not in ("facade", "routing"):
            chosen[each.name] = values_of(own)
    return st.fixed_dictionaries(chosen)


def values_of(hyperparameter: Hyperparameter) -> SearchStrategy[Any]:
    if get_origin(hyperparameter.type) is Literal:
        return st.sampled_from(get_args(hyperparameter.type))
    return OTHER_MEANINGS.get((hyperparameter.name, hyperparameter.default), VALUES[hyperparameter.name])
