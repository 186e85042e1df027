"""State dicts of what is packed: small, plain, bit-equal when resumed, and read under other settings."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from halves import assert_same, built, half_and_copy, plain_state, stepped, wide
from torch import Tensor, nn

import anyoptim
from anyoptim.memory.state import measured_state_bytes
from anyoptim.testing.subject import tiny_model

FEW = [
    *("master_weights=24bit,state_dtype=int8", "master_weights=32bit,state_dtype=int4", "master_weights=kahan"),
    *("master_weights=stochastic,state_dtype=bf16", "state_dtype=int8", "state_dtype=fp32", "master_weights=24bit"),
]
NAMES = ["adamw_torch", "muon", "schedule_free_adamw"]


def saved(optimizer: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return file


def plain_values(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, (str, int)) and plain_values(each) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(plain_values, value))
    return value is None or isinstance(value, (bool, int, float, str)) or type(value) is Tensor


@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_is_plain_and_as_small_as_the_state(name: str) -> None:
    for args in FEW:
        model = tiny_model(dtype=torch.bfloat16)
        optimizer = built(name, model, args)
        stepped(model, optimizer, range(1, 4))
        assert plain_values(optimizer.state_dict())
        file = saved(optimizer)
        torch.load(file, weights_only=True)
        # a schedule-free one's has the training weights beside
        weights = sum(each.nbytes for each in model.parameters()) if name == "schedule_free_adamw" else 0
        each_tensor = 1000 * sum(len(held) for held in optimizer.state.values())  # its name and its place in a zip
        assert file.getbuffer().nbytes <= measured_state_bytes(optimizer) + weights + each_tensor + 20_000, args


@pytest.mark.parametrize("args", FEW)
@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_the_same(name: str, args: str) -> None:
    model = tiny_model(dtype=torch.bfloat16)
    optimizer = built(name, model, args)
    stepped(model, optimizer, range(4))
    torch.manual_seed(99)  # the noise goes on, whatever the new process's seed
    other = copy.deepcopy(model)
    resumed = built(name, other, args)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed.load_state_dict(torch.load(saved(optimizer), weights_only=True))
    assert_same(plain_state(optimizer), plain_state(resumed))
    stepped(model, optimizer, range(4, 8))
    stepped(other, resumed, range(4, 8))
    assert_same(wide(model, optimizer), wide(other, resumed))
    assert_same(plain_state(optimizer), plain_state(resumed))


MOVES = [
    ("", "master_weights=24bit,state_dtype=int8"),
    ("", "master_weights=stochastic"),
    ("master_weights=24bit,state_dtype=int8", ""),
    ("master_weights=24bit", "master_weights=32bit"),
    ("master_weights=32bit,state_dtype=int8", "master_weights=kahan,state_dtype=int4"),
    ("master_weights=kahan,state_dtype=bf16", "master_weights=24bit,state_dtype=fp32"),
    ("master_weights=stochastic,state_dtype=fp32", "master_weights=32bit,state_dtype=fp32"),
    ("state_dtype=int4", "state_dtype=int8"),
]


@pytest.mark.parametrize(("before", "after"), MOVES)
@pytest.mark.parametrize("name", NAMES)
def test_state_moves_to_other_settings_with_one_sentence(name: str, before: str, after: str) -> None:
    model = tiny_model(dtype=torch.bfloat16)
    optimizer = built(name, model, before)
    stepped(model, optimizer, range(6))
    other = copy.deepcopy(model)
    moved = built(name, other, after)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        moved.load_state_dict(torch.load(saved(optimizer), weights_only=True))
    sentences = [str(each.message) for each in said if "held in another way" in str(each.message)]
    assert len(sentences) == 1 and sentences[0].endswith(".") and "\n" not in sentences[0]
    # what lies behind the weights is as near as the new way can hold it
    behind = any(each in after for each in ("24bit", "32bit", "kahan"))
    bound = 2.0**-15 if behind else 2.0**-8
    was, now = wide(model, optimizer), wide(other, moved)
    for key, value in was.items():
        assert ((now[key].float() - value.float()).abs() <= bound * value.float().abs() + 1e-30).all(), key
    stepped(model, optimizer, range(6, 8))
    stepped(other, moved, range(6, 8))
    for key, value in wide(model, optimizer).items():
        step = (value.float() - was[key].float()).norm()
        off = (wide(other, moved)[key].float() - value.float()).norm()
        assert off <= step + 2.0**-7 * value.float().norm(), key
    # a second time nothing is said: it is held as here now
    again = built(name, copy.deepcopy(other), after)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.load_state_dict(torch.load(saved(moved), weights_only=True))


def test_fp32_weights_are_the_copy_in_fp32() -> None:
    (low, stored), (copied, plain) = half_and_copy("adamw_torch", "master_weights=32bit,state_dtype=fp32")
    stepped(low, stored, range(5))
    stepped(copied, plain, range(5))
    assert_same(anyoptim.fp32_weights(low, stored), dict(copied.state_dict()))
    assert all(each.dtype == torch.float32 for each in anyoptim.fp32_weights(low, stored).values())
    assert_same({k: v.bfloat16() for k, v in copied.state_dict().items()}, dict(low.state_dict()))


def test_fp32_weights_of_what_keeps_nothing_are_the_weights() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert_same(anyoptim.fp32_weights(model, optimizer), {k: v.float() for k, v in model.state_dict().items()})
    for each in list(model.parameters())[::2]:
        each.requires_grad_(False)
    built_of_some = built("adamw_torch", model, "master_weights=24bit")
    stepped_some = [each for each in model.parameters() if each.requires_grad]
    for each in stepped_some:
        each.grad = torch.ones_like(each)
    built_of_some.step()
    found = anyoptim.fp32_weights(model, built_of_some)
    for key, value in model.named_parameters():
        assert found[key].dtype == torch.float32
        assert torch.equal(found[key], value.float()) != value.requires_grad


def test_tied_weights_and_buffers_have_their_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(8, 8, bias=False, dtype=torch.bfloat16)
            self.other = nn.Linear(8, 8, bias=False, dtype=torch.bfloat16)
            self.other.weight = self.one.weight
            self.register_buffer("count", torch.tensor(3))

    model = Tied()
    optimizer = built("adamw_torch", model, "master_weights=24bit")
    stepped(model, optimizer, range(1, 3))
    found = anyoptim.fp32_weights(model, optimizer)
    assert found.keys() == model.state_dict().keys()
    assert torch.equal(found["one.weight"], found["other.weight"]) and found["count"] == 3
    assert not torch.equal(found["one.weight"], model.one.weight.float())


def test_turning_the_weights_packs_nothing_anew() -> None:
    """A block whose only negative value is nearly nothing would lose its sign, and be packed in the other way."""
    model = tiny_model(dtype=torch.bfloat16)
    optimizer: Any = built("schedule_free(lion)", model, "master_weights=24bit,state_dtype=int8")
    optimizer.train()
    for each in model.parameters():
        each.grad = torch.ones_like(each)
        each.grad.view(-1)[3] = -1e-6
    optimizer.step()
    before = copy.deepcopy(plain_state(optimizer))
    optimizer.eval()
    optimizer.train()
    assert_same(before, plain_state(optimizer))
