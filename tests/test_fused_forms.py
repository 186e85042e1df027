"""Compiled steps on packed weights and state: what the steps in many passes make, to the last digit."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anyoptim
from anyoptim.engines import compiled_pass, packing
from anyoptim.engines.composite import inside
from anyoptim.engines.packed_state import Storage
from anyoptim.engines.packing import BLOCK
from anyoptim.engines.stored import Stored
from anyoptim.engines.transforms import EAGER, compiled_transforms
from anyoptim.errors import UnsupportedError

SHAPES = [(64, 64), (33, 96), (70, 8, 4), (5, 32), (1, 32), (16, 27), (7,)]
ROUNDED = 0.03
"""How many of a parameter's codes may be the next after some steps: eager kernels add a product without rounding it."""


@pytest.fixture(autouse=True)
def _forget() -> None:
    torch.compiler.reset()


def trained(name: str, text: str, *, steps: int = 20, dtype: torch.dtype = torch.bfloat16) -> tuple[nn.Module, Any]:
    """Return weights after some steps on given gradients, and their optimizer."""
    made = torch.Generator().manual_seed(0)
    first, *rest = [(torch.randn(shape, generator=made) * 0.02).to(dtype) for shape in SHAPES]
    model = nn.ModuleDict({TARGET: nn.Linear(*first.shape, bias=False), "rest": nn.ParameterList(rest)})
    model[TARGET].weight = nn.Parameter(first)
    targets = [TARGET] if anyoptim.optimizer_info(name).traits.names_targets else None
    optimizer = anyoptim.get_optimizer(
        name, model, lr=RATE, weight_decay=0.1, optim_args=text, optim_target_modules=targets
    )
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
        # every digit of fp32 is seen, so that nearly all weights differ in the last one
        assert mine.dtype == torch.float32 or (mine != yours).float().mean() <= share
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
                assert (away > 0).float().mean() <= share, key


CASES = [
    ("adamw_torch", "master_weights=24bit,state_dtype=int8"),
    pytest.param("sgd", "momentum=0.9,nesterov=true,master_weights=24bit,state_dtype=int8", marks=pytest.mark.slow),
    pytest.param("lion", "master_weights=24bit,state_dtype=int8", marks=pytest.mark.slow),
    pytest.param("adamw_torch", "master_weights=32bit,state_dtype=fp32", marks=pytest.mark.slow),
    pytest.param("lomo", "master_weights=24bit,fused_backward=false", marks=pytest.mark.slow),
    *(
        pytest.param(name, "master_weights=24bit,state_dtype=int8,rank=4", marks=pytest.mark.slow)
        for name in ("apollo_adamw", "galore_adamw")
    ),
]
RATE = 1e-3
TARGET = "target"
"""The name of the matrix that a low-rank optimizer projects, the first; the others are steps of AdamW."""


@pytest.mark.parametrize(("name", "text"), CASES)
def test_a_compiled_step_makes_what_a_generic_one_does(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same weights and state: to a unit of the last digit of fp32, or of 24 bits, or to the next code."""
    taken = []
    step = compiled_pass.CompiledPass.step

    def seen(self: Any, group: Any, parameter: Tensor, held: Any) -> None:
        taken.append(tuple(parameter.shape))
        step(self, group, parameter, held)

    monkeypatch.setattr(compiled_pass.CompiledPass, "step", seen)
    generic, compiled = trained(name, text, steps=1), trained(name, f"{text},compiled_step=true", steps=0)
    assert not taken
    for number in range(1, 5):
        compiled[0].load_state_dict(generic[0].state_dict())
        compiled[1].load_state_dict(copy.deepcopy(generic[1].state_dict()))
        before = {key: each.clone() for key, each in anyoptim.fp32_weights(*generic).items()}
        for model, optimizer in (generic, compiled):
            stepped(model, optimizer, range(number, number + 1))
        assert_next(generic, compiled, before, 1 if "32bit" in text else 2**8 + 1)
    # what has no rows of whole blocks, or one block alone, is stepped on generically; and so are low-rank targets
    assert taken == SHAPES[1 if "rank" in text else 0 : 4] * 4


def assert_next(
    one: tuple[nn.Module, Any], other: tuple[nn.Module, Any], before: dict[str, Tensor], units: int
) -> None:
    """Whether weights are so many units of fp32's last digit apart at most, and codes one.

    Updates, as long as the rate, are apart by 3 units of their own: kernels of torch differ in roots on a CPU, and in
    the order of factors.
    """
    wide = [anyoptim.fp32_weights(*each) for each in (one, other)]
    for name, weight in wide[0].items():
        largest = torch.maximum(weight.abs(), before[name].abs())
        allowed = units * unit_of(largest) + 3 * unit_of(torch.tensor(RATE))
        assert ((weight - wide[1][name]).abs() <= allowed).all()
    for mine, yours in zip(one[0].parameters(), other[0].parameters(), strict=True):
        for key, value in one[1].state[mine].items():
            held = other[1].state[yours][key]
            if ":int8" in key:
                assert (value.int() - held.int()).abs().max() <= 1, key
            elif isinstance(value, Tensor) and "weight" not in key:
                torch.testing.assert_close(value, held, rtol=1e-5, atol=1e-7)


def unit_of(values: Tensor) -> Tensor:
    return torch.nextafter(values, torch.tensor(math.inf)) - values


def test_one_goes_on_where_the_other_ended() -> None:
    text = "master_weights=24bit,state_dtype=int8"
    whole = trained("adamw_torch", text, steps=8)
    for first, then in ((text, f"{text},compiled_step=true"), (f"{text},compiled_step=true", text)):
        model, optimizer = trained("adamw_torch", first, steps=4)
        resumed, after = trained("adamw_torch", then, steps=0)
        resumed.load_state_dict(model.state_dict())
        after.load_state_dict(optimizer.state_dict())
        stepped(resumed, after, range(4, 8))
        assert_alike(whole, (resumed, after))


def test_it_steps_in_the_backward_pass() -> None:
    text = "momentum=0.9,master_weights=24bit,state_dtype=int8,fused_backward=true"
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
def test_what_it_does_not_do_is_done_generically(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_pass.CompiledPass, "step", None)
    text = f"master_weights=24bit,state_dtype=int8,{text}" if "master" not in text else f"state_dtype=int8,{text}"
    torch.manual_seed(0)
    generic = trained("adamw_torch", text, steps=3)
    torch.manual_seed(0)
    compiled = trained("adamw_torch", f"{text},compiled_step=true", steps=3)
    assert_alike(generic, compiled, share=0)


def test_without_a_compiler_it_says_what_to_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("no g++"), None)

    monkeypatch.setattr(torch, "compile", lambda function, **_: fail)
    compiled_transforms.cache_clear()
    for name in ("sgd", "adopt"):
        with pytest.raises(UnsupportedError, match="Leave compiled_step out"):
            trained(name, "master_weights=24bit,compiled_step=true", steps=2)
    compiled_transforms.cache_clear()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("adopt", "master_weights=24bit,state_dtype=int8"),
        pytest.param("lookahead(adamw_torch)", "master_weights=24bit,state_dtype=bf16", marks=pytest.mark.slow),
        pytest.param("pytorch_optimizer/adan", "master_weights=24bit,state_dtype=int8", marks=pytest.mark.slow),
        pytest.param("adopt", "master_weights=32bit,state_dtype=int4", marks=pytest.mark.slow),
        pytest.param("adopt", "master_weights=stochastic,state_dtype=int8", marks=pytest.mark.slow),
        pytest.param("adopt", "master_weights=kahan,fused_backward=true", marks=pytest.mark.slow),
    ],
)
def test_without_a_form_the_transforms_are_compiled_to_the_same_bits(name: str, text: str) -> None:
    torch.manual_seed(0)
    generic = trained(name, text, steps=4)
    torch.manual_seed(0)
    compiled = trained(name, f"{text},compiled_step=true", steps=4)
    assert any(each.transforms is not EAGER for each in inside(compiled[1], Stored))
    for mine, yours in zip(generic[0].parameters(), compiled[0].parameters(), strict=True):
        assert same_bits(mine, yours)
        assert_same(generic[1].state[mine], compiled[1].state[yours])


def assert_same(one: Any, other: Any) -> None:
    assert list(one) == list(other)
    for key, value in one.items():
        if isinstance(value, Tensor):
            assert value.dtype == other[key].dtype
            assert value.shape == other[key].shape
            assert torch.equal(value, other[key]), key
        else:
            assert value == other[key]


def test_where_nothing_is_packed_the_plan_says_that_it_has_no_effect() -> None:
    for text, said in (("offload=cpu,", True), ("master_weights=24bit,", False)):
        plan = anyoptim.plan("adagrad", None, optim_args=f"{text}compiled_step=true")
        assert any("compiled_step has no effect" in each for each in plan.advice) is said


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


@pytest.mark.parametrize("bits", [8, pytest.param(4, marks=pytest.mark.slow)])
def test_compiled_packing_has_the_same_bits(bits: int) -> None:
    values = hard_values()
    compare_packed(values, bits)
    # roots that are not the nearest number would be another code for one value in 100,000
    many = torch.rand(2**13, BLOCK, generator=torch.Generator().manual_seed(0))
    for signed in (None, True, False):
        compare_packed(many, bits, signed)


def compare_packed(values: Tensor, bits: int, signed: bool | None = None) -> None:
    codes, scales = packing.pack(values, bits, signed)
    compiled_codes, compiled_scales = torch.compile(packing.pack, dynamic=True)(values, bits, signed)
    assert same_bits(codes, compiled_codes)
    assert same_bits(scales, compiled_scales)
    wide = packing.unpack(codes, scales, bits, values.shape)
    assert same_bits(wide, torch.compile(packing.unpack, dynamic=True)(codes, scales, bits, values.shape))


@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=["bf16", "fp16"]
)
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
    assert stored.compiled
    assert stored.form
    assert_alike(trained(name, text, dtype=dtype), compiled)


def test_state_of_another_kind_is_left_to_the_generic_way() -> None:
    model, optimizer = trained("sgd", "momentum=0.9,master_weights=24bit,state_dtype=int8", steps=2)
    group = optimizer.param_groups[0]
    weight = next(model.parameters())
    held = optimizer.state[weight]
    assert compiled_pass.CompiledPass("sgd", Storage("24bit", "int8")).takes(group, weight, held)
    assert not compiled_pass.CompiledPass("sgd", Storage("24bit", "int4")).takes(group, weight, held)
    assert not compiled_pass.CompiledPass("sgd", Storage("24bit", "int8")).takes(group, weight, {})
