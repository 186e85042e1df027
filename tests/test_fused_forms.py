"""Steps on packed weights and state in one compiled pass: what the steps in many passes make, to the last digit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anyoptim
from anyoptim.engines import compiled_pass, packing
from anyoptim.engines.packed_state import Storage
from anyoptim.engines.stored import Stored
from anyoptim.errors import UnsupportedError

SHAPES = [(64, 64), (33, 96), (70, 8, 4), (5, 32), (1, 32), (16, 27), (7,)]
ROUNDED = 0.03
"""How many of a parameter's codes may be the next, since eager kernels add a product to a sum without rounding it.

Gradients in bf16 make ties likely, and one that a scale of a block is at the middle of shifts all codes of the block.
"""


@pytest.fixture(autouse=True)
def _forget() -> None:
    torch.compiler.reset()


def trained(name: str, text: str, *, steps: int = 20, dtype: torch.dtype = torch.bfloat16) -> tuple[nn.Module, Any]:
    """Return weights after some steps on given gradients, and their optimizer."""
    made = torch.Generator().manual_seed(0)
    model = nn.ParameterList((torch.randn(shape, generator=made) * 0.02).to(dtype) for shape in SHAPES)
    optimizer = anyoptim.get_optimizer(name, model, lr=1e-3, weight_decay=0.1, optim_args=text)
    stepped(model, optimizer, range(steps))
    return model, optimizer


def stepped(model: nn.Module, optimizer: Any, steps: range) -> None:
    for number in steps:
        drawn = torch.Generator().manual_seed(number)
        gradients = [(torch.randn(each.shape, generator=drawn) * 1e-2).to(each.dtype) for each in model.parameters()]
        if hasattr(optimizer, "fused_backward"):
            loss = sum((each * given).sum() for each, given in zip(model.parameters(), gradients, strict=True))
            optimizer.fused_backward(loss, optimizer.param_groups[0]["lr"])
            continue
        for each, given in zip(model.parameters(), gradients, strict=True):
            each.grad = given
        optimizer.step()


def assert_alike(one: tuple[nn.Module, Any], other: tuple[nn.Module, Any], *, share: float = ROUNDED) -> None:
    """Whether weights and state have the same keys, dtypes and numbers; of codes some may be the next."""
    for mine, yours in zip(one[0].parameters(), other[0].parameters(), strict=True):
        assert (mine != yours).float().mean() <= share
        # two steps' length: of a sum that is nought but for rounding, Lion takes either sign
        torch.testing.assert_close(mine, yours, rtol=0.01, atol=2.1e-3)
        held, theirs = one[1].state[mine], other[1].state[yours]
        assert list(held) == list(theirs)
        for key, value in held.items():
            assert type(value) is type(theirs[key])
            if not isinstance(value, Tensor):
                assert value == theirs[key]
                continue
            assert (value.dtype, value.shape) == (theirs[key].dtype, theirs[key].shape)
            if ":int8" in key:
                away = (value.int() - theirs[key].int()).abs()
                assert away.max() <= 8, key  # a scale that a tie has shifted shifts codes in later steps, too
                assert (away > 0).float().mean() <= share, key


CASES = [
    ("adamw_torch", "master_weights=24bit,state_dtype=int8"),
    ("sgd", "momentum=0.9,nesterov=true,master_weights=24bit,state_dtype=int8"),
    ("lion", "master_weights=24bit,state_dtype=int8"),
]


@pytest.mark.parametrize(("name", "text"), CASES, ids=[name for name, _ in CASES])
def test_a_compiled_step_makes_what_a_generic_one_does(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    step = compiled_pass.CompiledPass.step

    def seen(self: Any, group: Any, parameter: Tensor, held: Any) -> None:
        taken.append(tuple(parameter.shape))
        step(self, group, parameter, held)

    monkeypatch.setattr(compiled_pass.CompiledPass, "step", seen)
    generic = trained(name, text)
    assert not taken
    compiled = trained(name, f"{text},compiled_step=true")
    # the first step makes state; what has no rows of whole blocks, or one block alone, is stepped on generically
    assert taken == SHAPES[:4] * 19
    assert_alike(generic, compiled)


def test_one_goes_on_where_the_other_ended() -> None:
    text = CASES[0][1]
    whole = trained("adamw_torch", text, steps=8)
    for first, then in ((text, f"{text},compiled_step=true"), (f"{text},compiled_step=true", text)):
        model, optimizer = trained("adamw_torch", first, steps=4)
        resumed, after = trained("adamw_torch", then, steps=0)
        resumed.load_state_dict(model.state_dict())
        after.load_state_dict(optimizer.state_dict())
        stepped(resumed, after, range(4, 8))
        assert_alike(whole, (resumed, after))


def test_it_steps_in_the_backward_pass() -> None:
    text = f"{CASES[1][1]},fused_backward=true"
    assert_alike(trained("sgd", text, steps=5), trained("sgd", f"{text},compiled_step=true", steps=5))


def test_a_pass_is_compiled_once() -> None:
    """Whatever the shapes, the rate and the count of steps."""
    text = "momentum=0.9,master_weights=24bit,compiled_step=true"
    model, optimizer = trained("sgd", text, steps=2)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rate in (1e-2, 1e-3):
            optimizer.param_groups[0]["lr"] = rate
            stepped(model, optimizer, range(2, 4))


@pytest.mark.parametrize("text", ["maximize=true", "master_weights=kahan", "master_weights=stochastic"])
def test_what_it_does_not_do_is_done_generically(text: str) -> None:
    text = f"master_weights=24bit,state_dtype=int8,{text}" if "master" not in text else f"state_dtype=int8,{text}"
    torch.manual_seed(0)
    generic = trained("adamw_torch", text, steps=3)
    torch.manual_seed(0)
    with torch._dynamo.config.patch(disable=True):
        compiled = trained("adamw_torch", f"{text},compiled_step=true", steps=3)
    assert_alike(generic, compiled, share=0)


def test_without_a_compiler_it_says_what_to_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("no g++"), None)

    monkeypatch.setattr(compiled_pass, "_compiled", lambda form: fail)
    with pytest.raises(UnsupportedError, match="Leave compiled_step out"):
        trained("sgd", "master_weights=24bit,compiled_step=true", steps=2)


def test_it_has_no_effect_where_there_is_no_form() -> None:
    plan = anyoptim.plan("adagrad", None, optim_args="master_weights=24bit,compiled_step=true")
    assert [each for each in plan.advice if "compiled_step" in each] == [
        "compiled_step has no effect: adagrad has no step of that kind"
    ]


# ---------------------------------------------------------------- packing, eagerly and compiled


def hard_values() -> Tensor:
    """Return rows of blocks of all sizes and kinds: zero, subnormal, with and without signs, endless."""
    drawn = torch.Generator().manual_seed(3)
    rows = torch.randn(24, 96, generator=drawn) * torch.logspace(-44, 37, 24).unsqueeze(1)
    rows[1::4] = rows[1::4].abs()
    rows[2, :32], rows[3, 32:64], rows[4, 5] = 0, -0.0, 0
    return rows


def same_bits(one: Tensor, other: Tensor) -> bool:
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32}[one.element_size()]
    nan = one.isnan()
    return bool(nan.equal(other.isnan())) and torch.equal(
        one.view(integer).masked_fill(nan, 0), other.view(integer).masked_fill(nan, 0)
    )


@pytest.mark.parametrize("bits", [8, 4])
def test_compiled_packing_has_the_same_bits(bits: int) -> None:
    values = hard_values()
    codes, scales = packing.pack(values, bits)
    compiled_codes, compiled_scales = torch.compile(packing.pack, dynamic=True)(values, bits)
    assert same_bits(codes, compiled_codes)
    assert same_bits(scales, compiled_scales)
    wide = packing.unpack(codes, scales, bits, values.shape)
    assert same_bits(wide, torch.compile(packing.unpack, dynamic=True)(codes, scales, bits, values.shape))


@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_compiled_splitting_has_the_same_bits(dtype: torch.dtype, bits: int) -> None:
    values = hard_values()
    values[5, :3] = torch.tensor([math.inf, -math.inf, math.nan])
    low, remainder = packing.split(values, dtype, bits)
    compiled_low, compiled_remainder = torch.compile(packing.split, dynamic=True)(values, dtype, bits)
    assert same_bits(low, compiled_low)
    assert same_bits(remainder, compiled_remainder)
    assert same_bits(packing.join(low, remainder), torch.compile(packing.join, dynamic=True)(low, remainder))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw_torch", "sgd", "lion", "timm/lion", "timm/sgd", "timm/adamw"])
@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("master_weights=32bit,state_dtype=int4", torch.bfloat16),
        ("master_weights=24bit,state_dtype=bf16", torch.float16),
        ("state_dtype=int8", torch.float32),
        ("master_weights=24bit,offload=cpu", torch.bfloat16),
    ],
)
def test_every_way_to_hold_state(name: str, text: str, dtype: torch.dtype) -> None:
    text = f"momentum=0.9,{text}" if "sgd" in name else text
    compiled = trained(name, f"{text},compiled_step=true", dtype=dtype)
    stored: Any = compiled[1]
    assert isinstance(stored, Stored)
    assert stored.compiled is not None
    assert_alike(trained(name, text, dtype=dtype), compiled)


def test_state_of_another_kind_is_left_to_the_generic_way() -> None:
    model, optimizer = trained("sgd", "momentum=0.9,master_weights=24bit,state_dtype=int8", steps=2)
    group = optimizer.param_groups[0]
    weight = next(model.parameters())
    held = optimizer.state[weight]
    assert compiled_pass.CompiledPass("sgd", Storage("24bit", "int8")).takes(group, weight, held)
    assert not compiled_pass.CompiledPass("sgd", Storage("24bit", "int4")).takes(group, weight, held)
    assert not compiled_pass.CompiledPass("sgd", Storage("24bit", "int8")).takes(group, weight, {})
