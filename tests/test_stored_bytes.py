"""Bytes of what is packed, and of what a step unpacks: as planned, counted by other means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from halves import built, stepped, watch_steps
from torch import Tensor
from toys import skip_unless_installed

import anyoptim
from anyoptim.engines import compiled_pass
from anyoptim.engines.transforms import compiled_transforms
from anyoptim.memory.state import measured_state_bytes
from anyoptim.testing.subject import Subject, tiny_model

NAMES = ["adamw_torch", "muon", "schedule_free_adamw", "adalomo", "lookahead(adamw_torch)", "pytorch_optimizer/soap"]

FEW = [("24bit", "int8"), ("own", "int4"), ("kahan", "own"), ("stochastic", "fp32"), ("32bit", "bf16"), ("own", "bf16")]


def planned(name: str, model: Any, args: str) -> Any:
    return anyoptim.plan(name, model, {**Subject(name).arguments, "optim_args": args})


@pytest.mark.parametrize("name", NAMES)
def test_state_is_planned_to_the_byte(name: str) -> None:
    skip_unless_installed(name)
    for master, state in FEW:
        args = f"master_weights={master},state_dtype={state}"
        model = tiny_model(dtype=torch.bfloat16)
        optimizer = built(name, model, args)
        for each in model.parameters():
            each.grad = torch.ones_like(each)
        optimizer.step()
        found = planned(name, tiny_model(dtype=torch.bfloat16), args).footprint()
        assert found.state == measured_state_bytes(optimizer), args
        tensors = [(key, each) for held in optimizer.state.values() for key, each in held.items()]
        sized = [(key, each.numel() * each.element_size()) for key, each in tensors if isinstance(each, Tensor)]
        assert found.remainder == sum(size for key, size in sized if key.startswith("weight:")), args
        assert found.scales == sum(size for key, size in sized if key.endswith(":scale")), args
        assert found.moments == found.state - found.remainder - found.scales


@pytest.mark.parametrize(
    ("master", "state", "each"),
    [
        ("24bit", "int8", 1 + 2 * (1 + 4 / 32)),
        ("32bit", "bf16", 2 + 2 * 2),
        ("own", "int4", 2 * (0.5 + 4 / 32)),
        ("kahan", "fp32", 2 + 2 * 4),
        ("stochastic", "int8", 2 * (1 + 4 / 32)),
    ],
)
def test_an_element_takes_so_many_bytes(master: str, state: str, each: float) -> None:
    """AdamW's two moments and what lies behind the weight, beside the weight itself."""
    weight = torch.nn.Parameter(torch.randn(64, 128, dtype=torch.bfloat16))
    model = torch.nn.Module()
    model.register_parameter("weight", weight)
    optimizer = built("adamw_torch", model, f"master_weights={master},state_dtype={state}")
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    sized = [one for one in optimizer.state[weight].values() if isinstance(one, Tensor) and one.dim()]
    assert sum(one.nbytes for one in sized) == weight.numel() * each


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let what is to be compiled run as it is, which takes no time."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    yield
    compiled_transforms.cache_clear()
    compiled_pass._compiled.cache_clear()


@pytest.mark.parametrize(
    ("name", "cached"), [("adamw_torch", 2**18), ("adamw_torch", 5000), ("muon", 5000), ("adalomo", 2**18)]
)
def test_the_batch_is_what_a_step_unpacks(name: str, cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted where the optimizer steps: what is in its hands and is not the model's, nor kept between steps."""
    monkeypatch.setattr("anyoptim.engines.stored_batches.CACHED", cached)
    assert_batches(name, monkeypatch)


@pytest.mark.usefixtures("uncompiled")
def test_a_compiled_step_unpacks_what_it_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = assert_batches("adamw_torch", monkeypatch, ",compiled_step=true")
    generic = assert_batches("adamw_torch", monkeypatch)
    assert sum(compiled) < sum(generic) / 2


def assert_batches(name: str, monkeypatch: pytest.MonkeyPatch, more: str = "") -> list[int]:
    """Return the bytes that are planned for the largest batch in several settings, which are those that are seen."""
    seen = []
    for master, state in FEW:
        args = f"master_weights={master},state_dtype={state}{more}"
        model = tiny_model(dtype=torch.bfloat16)
        optimizer = built(name, model, args)
        stepped(model, optimizer, range(1, 3))  # of these all have state after two
        for each in model.parameters():
            each.grad = torch.ones_like(each)
        kept, batches = kept_by(model, optimizer), list[int]()
        with monkeypatch.context() as watched:
            watch_steps(watched, lambda batch, told=batches, kept=kept: told.append(unpacked(batch, kept)))
            optimizer.step()
        seen.append(max(batches))
        assert planned(name, tiny_model(dtype=torch.bfloat16), args).footprint().batch == seen[-1], args
    return seen


def kept_by(model: torch.nn.Module, optimizer: Any) -> set[int]:
    """Where the storages of weights, gradients and packed state lie."""
    kept = [each for one in model.parameters() for each in (one, one.grad) if each is not None]
    kept += [each for held in optimizer.state.values() for each in held.values() if isinstance(each, Tensor)]
    return {each.untyped_storage().data_ptr() for each in kept}


def unpacked(batch: list[Any], kept: set[int]) -> int:
    found = {}
    for _, stand_in, state in batch:
        for each in (stand_in, stand_in.grad, *state.values()):
            if isinstance(each, Tensor) and each.dim() and each.untyped_storage().data_ptr() not in kept:
                found[each.untyped_storage().data_ptr()] = each.numel() * each.element_size()
    return sum(found.values())
