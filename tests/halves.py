"""Models in 16 bits with optimizers that hold something behind them, and copies in fp32 that they are compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from engines import SHAPES, STACKS, Net
from torch import Tensor, nn

import anyoptim
from anyoptim.engines.on_shards import StandIns
from anyoptim.testing.subject import Subject, tiny_model

MASTER = ["own", "24bit", "32bit", "stochastic", "kahan"]
STATE = ["own", "fp32", "bf16", "int8", "int4"]
ALL = [(master, state) for master in MASTER for state in STATE if (master, state) != ("own", "own")]

Pair = tuple[nn.Module, Any]


class Wide(Net):
    """The shapes of :class:`Net`, with rows enough to be cut, and an odd number of columns, in bf16."""

    def __init__(self) -> None:
        super().__init__({**SHAPES, **STACKS, "odd": (40, 33), "long": (70, 4)}, dtype=torch.bfloat16)


def low_model(name: str) -> nn.Module:
    """A model in bf16 for a name: of many shapes, or with roles for those that choose by them."""
    return tiny_model(dtype=torch.bfloat16) if anyoptim.optimizer_info(name).traits.needs_targets else Wide()


def built(name: str, model: nn.Module, args: str = "", **given: Any) -> Any:
    spec = anyoptim.optimizer_info(name)
    if spec.traits.names_targets:
        given.setdefault("optim_target_modules", "all-linear")
    if any(each.name == "rank" for each in spec.hyperparameters):
        args = ",".join(filter(None, [args, "rank=4"]))
    fields = {
        "learning_rate": Subject(name).rate,
        "weight_decay": 0.1,
        "max_grad_norm": 0.0,
        "optim_args": args or None,
    }
    optimizer = anyoptim.get_optimizer(name, model, {**fields, **given})
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def gradients(model: nn.Module, step: int, times: float = 1.0) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Of each parameter one that bf16 and fp16 can hold, whatever the model's dtype."""
    generator = torch.Generator().manual_seed(step)
    for number, parameter in enumerate(model.parameters()):
        drawn = torch.randn(parameter.shape, generator=generator) * times
        if (step + number) % 7:  # some have none
            yield parameter, drawn.to(torch.float16).to(torch.bfloat16).to(parameter.dtype)


def stepped(model: nn.Module, optimizer: Any, steps: range, **given: Any) -> None:
    for step in steps:
        for parameter, gradient in gradients(model, step, **given):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()


def wide(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    return anyoptim.fp32_weights(model, optimizer)


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert not [name for name in left if not torch.equal(left[name], right[name])]


def half_and_copy(name: str, args: str, dtype: torch.dtype = torch.bfloat16, **given: Any) -> tuple[Pair, Pair]:
    """A model in 16 bits with its optimizer, and its copy in fp32 with one that packs nothing."""
    low = tiny_model(dtype=dtype)
    copied = copy.deepcopy(low).float()
    return (low, built(name, low, args, **given)), (copied, built(name, copied, **given))


def plain_state(optimizer: Any) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{at}.{key}": each for at, held in state.items() for key, each in held.items() if isinstance(each, Tensor)}


def watch_steps(monkeypatch: pytest.MonkeyPatch, told: Callable[[list[Any]], object]) -> None:
    """Tell of every batch that an optimizer steps on, before it does."""
    step = StandIns.step

    def watched(self: StandIns, stand_ins: Any, *args: Any) -> Any:
        every = list(stand_ins)
        told(every)
        return step(self, every, *args)

    monkeypatch.setattr(StandIns, "step", watched)
