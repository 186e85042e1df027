"""Weights and state in fewer bytes: bit for bit, against errors derived from the codes, and against chance."""

from __future__ import annotations

import itertools
import math
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor

from anyoptim.engines.noise import first_seed, next_seed
from anyoptim.engines.packed_state import Storage, weight_packed, word_of
from anyoptim.engines.packing import BLOCK, behind, join, pack, round_stochastically, split, unpack

EVERY_LOW = torch.arange(-(2**15), 2**15, dtype=torch.int32)
EDGES = [-(2**15), -(2**15) + 1, -129, -128, -127, -1, 0, 1, 127, 128, 129, 2**15 - 2, 2**15 - 1]
SMALLEST = {torch.bfloat16: 2.0**-126, torch.float16: 2.0**-14}
"""Where the normal numbers of a dtype begin."""
ENDS = {torch.bfloat16: 0.0, torch.float16: 2.0**-37}
"""What 16 bits more are less exact than, near zero."""
CODES = {8: (127, 256), 4: (7, 16)}
"""Codes up to the largest with a sign; steps of the root of a value without one."""


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16)


def every_kind(remainder: int) -> Tensor:
    """All fp32 values whose upper half is anything, the lower half being given: NaNs and infinities, too."""
    return ((EVERY_LOW << 16) + (remainder & 0xFFFF)).view(torch.float32)


def same(left: Tensor, right: Tensor) -> bool:
    """Bit for bit, and NaN where the other is NaN."""
    return torch.equal(left.isnan(), right.isnan()) and torch.equal(
        bits(left)[~left.isnan()], bits(right)[~right.isnan()]
    )


def spread(seed: int, size: int, low: float, high: float) -> Tensor:
    """Values of either sign whose logarithm is uniform, so that every exponent is there."""
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.empty(size).uniform_(low, high, generator=generator)
    return torch.exp2(exponents) * torch.randint(0, 2, (size,), generator=generator).mul(2).sub(1)


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("remainder", EDGES)
def test_bf16_with_32_bits_is_fp32(remainder: int) -> None:
    wide = every_kind(remainder)
    assert same(join(*split(wide, torch.bfloat16, 32)), wide)


@given(st.integers(-(2**15), 2**15 - 1))
def test_bf16_with_32_bits_is_fp32_for_any_remainder(remainder: int) -> None:
    wide = every_kind(remainder)
    assert same(join(*split(wide, torch.bfloat16, 32)), wide)


@pytest.mark.parametrize("dtype", SMALLEST)
@pytest.mark.parametrize("remainder", EDGES)
def test_24_bits_lose_no_more_than_the_next_one(remainder: int, dtype: torch.dtype) -> None:
    wide = every_kind(remainder)
    inside = (wide.abs() >= SMALLEST[dtype]) & (wide.abs() < (2.0**15 if dtype == torch.float16 else math.inf))
    wide = wide[inside]
    joined = join(*split(wide, dtype, 24))
    finite = joined.isfinite()
    assert finite.sum() >= len(wide) - 2  # what rounds up to infinity at the end of the range
    error = (joined.double() - wide.double()).abs()[finite] / wide.double().abs()[finite]
    assert error.max() <= 2.0**-16


@pytest.mark.parametrize("count", [24, 32])
@pytest.mark.parametrize("dtype", SMALLEST)
def test_what_is_packed_stays_packed(dtype: torch.dtype, count: int) -> None:
    """Once more makes the same of it, bit for bit, for all weights in 16 bits."""
    for remainder in EDGES:
        once = split(every_kind(remainder), dtype, count)
        again = split(join(*once), dtype, count)
        assert same(again[0], once[0])
        number = ~once[0].isnan()
        assert torch.equal(again[1][number], once[1][number])


@pytest.mark.parametrize("count", [24, 32])
def test_nan_and_infinity_stay(count: int) -> None:
    for dtype in SMALLEST:
        wide = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0])
        low, remainder = split(wide, dtype, count)
        assert same(low.float(), wide)
        assert same(join(low, remainder), wide)
        payloads = torch.tensor([0x7F800001, 0x7FFFFFFF, -1, -0x7FFFFF], dtype=torch.int32).view(torch.float32)
        assert join(*split(payloads, dtype, count)).isnan().all()


def test_fp16_goes_on_to_infinity_where_it_has_no_number() -> None:
    wide = torch.tensor([65504.0, 65519.9, 65520.0, 2.0**17, 3e38, -3e38])
    low, remainder = split(wide, torch.float16, 32)
    assert torch.equal(low, wide.half())
    assert torch.equal(join(low, remainder)[:2], wide[:2])


@pytest.mark.parametrize("count", [24, 32])
@pytest.mark.parametrize("dtype", SMALLEST)
def test_the_weight_that_is_seen_is_the_nearest(dtype: torch.dtype, count: int) -> None:
    for remainder in EDGES:
        wide = every_kind(remainder)
        wide = wide[wide.abs() < torch.finfo(dtype).max]
        low, _ = split(wide, dtype, count)
        nearest = wide.to(dtype)
        off = (low.double() - wide.double()).abs()
        # rounding to 24 bits, or to fp16's smallest step, may then take the other one of two that are almost as near
        spare = wide.double().abs().clamp(min=SMALLEST[dtype]) * 2.0**-16 if count == 24 else ENDS[dtype]
        assert ((off <= (nearest.double() - wide.double()).abs() + spare) | (low == nearest)).all()


def test_fp16_is_exact_where_it_is_normal() -> None:
    wide = torch.cat([spread(0, 2**18, -14, 15.99), torch.tensor([2.0**-14, -(2.0**-14), 65519.9, -65519.9])])
    assert torch.equal(join(*split(wide, torch.float16, 32)), wide)


def test_fp16_below_is_a_multiple_of_one_step() -> None:
    wide = torch.cat([spread(1, 2**18, -60, -14), torch.tensor([0.0, 2.0**-37, 2.0**-38, 2.0**-24, -(2.0**-25)])])
    joined = join(*split(wide, torch.float16, 32)).double()
    assert torch.equal((joined * 2.0**37).round(), joined * 2.0**37)
    assert ((joined - wide.double()).abs() <= 2.0**-37).all()


@pytest.mark.parametrize("dtype", SMALLEST)
@pytest.mark.parametrize("count", [24, 32])
def test_behind_brings_a_given_weight_nearest(dtype: torch.dtype, count: int) -> None:
    wide = spread(2, 2**14, -13, 14)
    low, remainder = split(wide, dtype, count)
    assert torch.equal(behind(low, wide, count), remainder)
    beside = (bits(low) + 1).view(dtype)  # not the nearest: no remainder brings it further than half a step
    for given_low in (low, beside, (bits(low) + 5).view(dtype)):
        found = behind(given_low, wide, count)
        reached = (join(given_low, found).double() - wide.double()).abs()
        for step in (-1, 1):
            other = (
                (found.int() + step).clamp(torch.iinfo(found.dtype).min, torch.iinfo(found.dtype).max).to(found.dtype)
            )
            assert ((join(given_low, other).double() - wide.double()).abs() >= reached).all()


# ---------------------------------------------------------------- rounding by chance


@pytest.mark.parametrize("dtype", SMALLEST)
def test_chance_takes_one_of_two_neighbours(dtype: torch.dtype) -> None:
    wide = spread(3, 2**16, -30, 15.9)
    noise = torch.randint(0, 2**16, wide.shape, dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    low = round_stochastically(wide, dtype, noise)
    nearest = wide.to(dtype)
    toward = torch.where(nearest.float().abs() > wide.abs(), -1, 1)
    other = torch.where(nearest.float() == wide, bits(nearest), bits(nearest) + toward.to(torch.int16)).view(dtype)
    assert ((low == nearest) | (low == other.to(dtype))).all()
    exact = nearest.float()
    assert torch.equal(round_stochastically(exact, dtype, noise), nearest)
    special = torch.tensor([math.nan, math.inf, -math.inf])
    assert same(round_stochastically(special, dtype, noise[:3]).float(), special)


@pytest.mark.parametrize("dtype", SMALLEST)
@pytest.mark.parametrize("part", [0.01, 0.3, 0.5, 0.9])
def test_chance_favours_neither(dtype: torch.dtype, part: float) -> None:
    """The mean of 2**18 is within 5 standard deviations of the weight: one false alarm in 1.7 million runs."""
    step = torch.finfo(dtype).eps
    for sign in (1, -1):
        wide = torch.full((2**18,), sign * (1 + part * step))
        generator = torch.Generator().manual_seed(int(part * 1000))
        noise = torch.randint(0, 2**16, wide.shape, dtype=torch.int32, generator=generator)
        mean = round_stochastically(wide, dtype, noise).double().mean() * sign
        deviation = step * math.sqrt(part * (1 - part) / len(wide))
        assert abs(mean - wide[0].double() * sign) <= 5 * deviation


def test_noise_comes_from_the_seed_of_the_run() -> None:
    storage = Storage("stochastic")
    wide = torch.randn(64, 64)
    torch.manual_seed(5)
    seeds = [first_seed(number) for number in range(3)]
    torch.manual_seed(5)
    assert seeds == [first_seed(number) for number in range(3)] and len({*seeds}) == 3
    following = list(itertools.accumulate(range(50), lambda seed, _: next_seed(seed), initial=seeds[0]))
    assert len({*following}) == 51 and all(0 <= each < 2**62 for each in following)
    one, other = (weight_packed(wide, torch.bfloat16, storage, seeds[0])[0] for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, weight_packed(wide, torch.bfloat16, storage, seeds[1])[0])


# ---------------------------------------------------------------- state


def bound(values: Tensor, count: int, known: bool | None = None) -> Tensor:
    """How far what is unpacked may be from each value: by half a code.

    A code with a sign is of y = 2x / (1 + x), whose slope is 2 / (1 + x)**2; one without is of the root.
    """
    largest, every = CODES[count]
    rows = values.double().reshape(values.shape[0], -1)
    blocks = torch.nn.functional.pad(rows, (0, -rows.shape[1] % BLOCK)).view(rows.shape[0], -1, BLOCK)
    most = blocks.abs().amax(-1, keepdim=True)
    signed = (blocks < 0).any(-1, keepdim=True) if known is None else torch.tensor(known)
    part = (blocks.abs() / most.clamp(min=1e-300)).clamp(max=1.0)
    # between codes y - 1/2n and y + 1/2n lies x; its inverse y / (2 - y) bends upwards
    code = 2 * part / (1 + part)
    above = (code + 0.5 / largest).clamp(max=1.0)
    with_sign = above / (2 - above) - part
    root = (part.sqrt() + 0.5 / every).clamp(max=1.0)
    # what is below the first step is raised to it
    without = torch.maximum(root.square() - part, torch.full_like(part, float(every) ** -2))
    error = torch.where(signed, with_sign, without) + 2.0**-20
    return (error * most).view(rows.shape[0], -1)[:, : rows.shape[1]].reshape(values.shape)


SHAPES = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(1, 70)),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 9)),
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.just(3), st.just(3)),
)


@given(SHAPES, st.sampled_from([8, 4]), st.booleans(), st.integers(-100, 100), st.integers(0, 2**31), st.data())
def test_state_is_within_half_a_code(
    shape: tuple[int, ...], count: int, squared: bool, exponent: int, seed: int, data: Any
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * torch.exp2(-8 * torch.rand(shape, generator=generator))
    values = (values.square() if squared else values) * 2.0**exponent
    if data.draw(st.booleans()):
        values[0] = 0
    signed = not squared if data.draw(st.booleans()) else None
    codes, scales = pack(values, count, signed)
    columns = math.prod(shape[1:])
    assert codes.shape == (shape if count == 8 else (shape[0], math.ceil(columns / 2)))
    assert scales.shape == (shape[0], math.ceil(columns / BLOCK)) and scales.dtype == torch.float32
    found = unpack(codes, scales, count, shape)
    assert found.shape == values.shape and found.dtype == torch.float32
    assert ((found.double() - values.double()).abs() <= bound(values, count, signed)).all()
    assert (found[0] == 0).all() or (values[0] != 0).any()


@given(SHAPES, st.sampled_from([8, 4]), st.integers(-50, 50), st.integers(0, 2**31))
def test_a_second_moment_is_never_nothing(shape: tuple[int, ...], count: int, exponent: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.exp2(-40 * torch.rand(shape, generator=generator) + exponent)
    values[torch.rand(shape, generator=generator) < 0.3] = 0
    found = unpack(*pack(values, count), count, shape)
    rows = values.reshape(shape[0], -1)
    missing = -rows.shape[1] % BLOCK
    alive = torch.nn.functional.pad(rows, (0, missing)).view(shape[0], -1, BLOCK).amax(-1, keepdim=True) > 0
    alive = alive.expand(-1, -1, BLOCK).reshape(shape[0], -1)[:, : rows.shape[1]].reshape(shape)
    assert torch.equal(found > 0, alive)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("count", [8, 4])
def test_a_sign_that_is_known_is_the_one_that_is_seen(count: int, signed: bool) -> None:
    values = torch.randn(6, 96, generator=torch.Generator().manual_seed(0))
    values = values if signed else values.square()
    for told, seen in zip(pack(values, count, signed), pack(values, count), strict=True):
        assert torch.equal(told, seen)


@pytest.mark.parametrize("count", [8, 4])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_block_that_is_lost_takes_no_other_with_it(bad: float, count: int) -> None:
    for values in (torch.randn(3, 80), torch.randn(3, 80).square()):
        expected = unpack(*pack(values, count), count, values.shape)
        values[1, 40] = bad
        found = unpack(*pack(values, count), count, values.shape)
        elsewhere = torch.ones(3, 80, dtype=torch.bool)
        elsewhere[1, 32:64] = False
        assert torch.equal(found[elsewhere], expected[elsewhere])
        assert not found[1, 40].isfinite()


@given(st.integers(1, 9), st.integers(1, 90), st.sampled_from([8, 4]), st.integers(0, 2**31), st.data())
def test_rows_are_packed_as_the_whole_is(rows: int, columns: int, count: int, seed: int, data: Any) -> None:
    """What shards and steps by rows rely on: signs and zeros in other rows change nothing."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator)
    for row in range(rows):
        kind = data.draw(st.sampled_from(["signed", "squared", "zero"]))
        values[row] = {"signed": values[row], "squared": values[row].square(), "zero": values[row] * 0}[kind]
    cut = data.draw(st.integers(0, rows))
    codes, scales = pack(values, count)
    parts = [pack(part, count) for part in (values[:cut], values[cut:]) if len(part)]
    assert torch.equal(torch.cat([each[0] for each in parts]), codes)
    assert torch.equal(torch.cat([each[1] for each in parts]), scales)  # a zero may have either sign
    whole = unpack(codes, scales, count, values.shape)
    alone = [unpack(codes[row : row + 1], scales[row : row + 1], count, (1, columns)) for row in range(rows)]
    assert torch.equal(torch.cat(alone), whole)


@pytest.mark.parametrize("count", [8, 4])
def test_a_second_moment_falls(count: int) -> None:
    """Scales in bf16 would be rounded back to themselves by each step, and stay for ever."""
    values = torch.rand(4, 64, generator=torch.Generator().manual_seed(0)) + 0.5
    held = pack(values, count)
    start = unpack(*held, count, values.shape)
    for _ in range(1000):
        held = pack(unpack(*held, count, values.shape) * 0.999, count)
    left = unpack(*held, count, values.shape) / start
    torch.testing.assert_close(left, torch.full_like(left, 0.999**1000), rtol=1e-3, atol=0.0)


def test_a_key_that_is_a_word_is_not_packed() -> None:
    """Nero's state has a key of that name."""
    assert [word_of(key) for key in ("scale", "exp_avg:scale", "exp_avg", "exp_avg:int8", 3)] == [
        "",
        "scale",
        "",
        "int8",
        "",
    ]
