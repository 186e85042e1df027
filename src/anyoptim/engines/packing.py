"""Weights and state in fewer bytes: pure functions of tensors, the same bits eagerly and through ``torch.compile``.

Sources: arXiv 2602.23349, section 3.2 (what lies behind a weight in 16 bits) and 3.3 (companding); arXiv 2309.01507,
section 4.1 (a second moment has no code for zero, which would make its update endless).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK: Final = 32
"""Elements of a row that share a scale."""
HALF: Final = frozenset({torch.bfloat16, torch.float16})
"""The dtypes of weights that have something behind them."""

_SIGN, _MAGNITUDE = -(2**31), 2**31 - 1
_FP16_BIAS = 127 - 15
_FP16_ENDLESS = 31 << 26
_FP16_NAN = 0x7E000000
_TINY = 2.0**-126


# ---------------------------------------------------------------- weights


def split(wide: Tensor, dtype: torch.dtype, bits: int) -> tuple[Tensor, Tensor]:
    """Return a weight in 16 bits, and the remainder that makes it one of 24 or 32 bits again.

    The remainder is what is left of the bits, signed, as the weight is the nearest there is; of two that are as near
    it is the one farther from zero, since its remainder fits. NaN stays NaN, without its payload.

    Args:
        wide: fp32, of any shape.
        dtype: bf16 or fp16. In fp16, what is nearer to zero than 2**-14 is a multiple of 2**-37.
        bits: 24 (a remainder in int8; what is lost is 2**-16 of a weight at most) or 32 (int16, nothing is lost in
            bf16, nor in fp16 from 2**-14 to 2**16).

    Returns:
        the weight in ``dtype`` and the remainder, both of the shape of ``wide``.
    """
    long = _long_bits(wide, dtype)
    dropped = 32 - bits
    if dropped:
        long = long.add_(1 << (dropped - 1)).bitwise_right_shift_(dropped)
    kept = bits - 16
    near = (long + (1 << (kept - 1))).bitwise_and_(-1 << kept)
    remainder = long.sub_(near).to(torch.int8 if bits == 24 else torch.int16)
    return _of_upper_bits(near.bitwise_left_shift_(dropped), dtype), remainder


def join(low: Tensor, remainder: Tensor) -> Tensor:
    """Return the fp32 weight of which :func:`split` made a weight in 16 bits and a remainder."""
    behind = remainder.to(torch.int32)
    if remainder.dtype == torch.int8:
        behind = behind.bitwise_left_shift_(8)
    return _of_long_bits(behind.add_(_upper_bits(low)), low.dtype)


def behind(low: Tensor, wide: Tensor, bits: int) -> Tensor:
    """Return the remainder that brings a given weight nearest to a wide one; see :func:`split`."""
    bounds = torch.iinfo(torch.int8 if bits == 24 else torch.int16)
    away = _long_bits(wide, low.dtype) - _upper_bits(low)
    if bits == 24:
        away = (away + 128) >> 8
    return away.clamp(bounds.min, bounds.max).to(torch.int8 if bits == 24 else torch.int16)


def round_stochastically(wide: Tensor, dtype: torch.dtype, noise: Tensor) -> Tensor:
    """Return weights in 16 bits, each one of its two neighbours, the likelier the nearer: unbiased.

    Args:
        wide: fp32.
        dtype: bf16 or fp16.
        noise: int32 of the same shape, uniform in [0, 2**16).
    """
    long = _long_bits(wide, dtype)
    return _of_upper_bits((long + torch.where(torch.isfinite(wide), noise, 0)).bitwise_and_(-1 << 16), dtype)


def _long_bits(wide: Tensor, dtype: torch.dtype) -> Tensor:
    """Return, as int32, the bits of a float of ``dtype`` with 16 bits more in its fraction."""
    if dtype == torch.bfloat16:
        # the same bits; each is many times slower where the other stands
        if torch.compiler.is_compiling():
            return torch.where(wide.ne(wide), math.nan, wide).view(torch.int32)
        return wide.nan_to_num(math.nan, math.inf, -math.inf).view(torch.int32)
    # a product with a power of two gives fp32 the exponents of fp16, in the lower five of its eight bits
    scaled = (wide * 2.0**-_FP16_BIAS).view(torch.int32)
    magnitude = (scaled & _MAGNITUDE).clamp(max=31 << 23) << 3
    return torch.where(wide.isnan(), _FP16_NAN, magnitude | (scaled & _SIGN))


def _upper_bits(low: Tensor) -> Tensor:
    """Return the bits of a float of 16 bits as the upper ones of int32."""
    if low.dtype == torch.bfloat16:
        return low.to(torch.float32).view(torch.int32)  # a compiler has no vectors of int16
    return low.view(torch.int16).to(torch.int32) << 16


def _of_upper_bits(upper: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the float of 16 bits whose bits are the upper ones of int32, over zeros."""
    if dtype == torch.bfloat16:
        return upper.view(torch.float32).to(torch.bfloat16)
    return (upper >> 16).to(torch.int16).view(dtype)


def _of_long_bits(long: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.bfloat16:
        return long.view(torch.float32)
    magnitude = long & _MAGNITUDE
    wide = ((magnitude >> 3) | (long & _SIGN)).view(torch.float32) * 2.0**_FP16_BIAS
    endless = torch.where(long < 0, -math.inf, math.inf)
    endless = torch.where(magnitude > _FP16_ENDLESS, math.nan, endless)
    return torch.where(magnitude >= _FP16_ENDLESS, endless, wide)


# ---------------------------------------------------------------- state


class _Levels(NamedTuple):
    """The codes of so many bits.

    Args:
        largest: codes of values with signs go from its negative to it.
        every: how many codes there are: the root of a value without a sign goes up in as many steps.
    """

    largest: int
    every: int


_LEVELS = {8: _Levels(127, 256), 4: _Levels(7, 16)}


def pack(values: Tensor, bits: int, signed: bool | None = None) -> tuple[Tensor, Tensor]:
    """Return codes of values, and the scale of each block of a row.

    A block that holds a negative value keeps 2x / (1 + |x|) of each, one that does not keeps the square root, in units
    of the largest. So small values have finer steps than large ones, and a second moment is never taken for zero.
    Which of both it is stands in the scale's sign.

    Args:
        values: fp32, of two or more dimensions; those after the first make up a row.
        bits: 8 or 4.
        signed: all blocks may hold negative values, or none does; ``None``: look at each.

    Returns:
        codes (int8 in the shape of ``values``; with 4 bits uint8, two of a row in each, (rows, half of a row)) and
        scales (fp32, (rows, blocks of a row), negative where a block may hold a negative value).
    """
    largest, every = _LEVELS[bits]
    rows, columns = values.shape[0], values.shape[1:].numel()
    blocks = _blocks(values.reshape(rows, columns))
    # in fewer bits a scale times 0.999 would be rounded back to itself, and a second moment would never fall
    if signed is None:
        least, most = blocks.amin(dim=-1), blocks.amax(dim=-1)
        scale, negative = torch.maximum(most, -least), (least < 0) | (most <= 0)
    else:
        scale = (blocks.abs() if signed else blocks).amax(dim=-1)
    unit = scale.clamp(min=_TINY).unsqueeze(-1)

    def with_sign() -> Tensor:
        return blocks.div(blocks.abs().add_(unit)).mul_(2 * largest)

    def without_sign() -> Tensor:
        # the first step is kept for what is smaller: nothing is zero
        units = blocks.mul(unit.reciprocal()).clamp_(min=every**-2)
        # torch's root is MKL's on a CPU, and not always the nearest number; this one is the same when compiled
        return units.mul_(units.rsqrt()).mul_(every).sub_(every // 2 + 1)

    if signed is None:
        codes, scales = _either(negative, with_sign, without_sign), torch.where(negative, -scale, scale)
    else:
        codes, scales = (with_sign(), -scale) if signed else (without_sign(), scale)
    codes = codes.round_()
    codes = codes.view(rows, -1)[:, :columns]
    if bits == 8:
        return codes.to(torch.int8).reshape(values.shape), scales
    nibbles = pad(codes + every // 2, (0, columns % 2)).to(torch.uint8)
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4), scales


def unpack(codes: Tensor, scales: Tensor, bits: int, shape: Sequence[int]) -> Tensor:
    """Return in fp32 what :func:`pack` made codes of.

    Args:
        codes: int8, or uint8 with 4 bits.
        scales: fp32.
        bits: 8 or 4.
        shape: of the values.
    """
    largest, every = _LEVELS[bits]
    rows, columns = shape[0], math.prod(shape[1:])
    wide = codes.to(torch.float32)
    if bits == 4:
        wide = torch.stack((codes & 15, codes >> 4), dim=-1).view(rows, -1)[:, :columns].to(torch.float32)
        wide -= every // 2
    blocks = _blocks(wide.reshape(rows, columns))
    scale = scales.unsqueeze(-1)

    def with_sign() -> Tensor:
        return blocks.div(blocks.abs().neg_().add_(2 * largest))

    def without_sign() -> Tensor:
        return blocks.add(every // 2 + 1).mul_(1 / every).square_()

    units = _either(scales < 0, with_sign, without_sign, doubtful=scales == 0)
    return units.mul_(scale.abs()).view(rows, -1)[:, :columns].reshape(shape)


def _either(
    signed: Tensor, with_sign: Callable[[], Tensor], without_sign: Callable[[], Tensor], doubtful: Tensor | None = None
) -> Tensor:
    """Return for each block the one or the other; where values are at hand only what is asked for is computed.

    Args:
        signed: for each block, whether it is ``with_sign``.
        with_sign: gives blocks.
        without_sign: gives blocks.
        doubtful: blocks where both come to the same.
    """
    if signed.device.type == "cpu" and type(signed) is Tensor and not torch.compiler.is_compiling():
        if bool((signed if doubtful is None else signed | doubtful).all()):
            return with_sign()
        if not bool(signed.any()):
            return without_sign()
    return torch.where(signed.unsqueeze(-1), with_sign(), without_sign())


def _blocks(rows: Tensor) -> Tensor:
    """Return rows (m, n) as blocks (m, ceil(n / 32), 32), filled up with zeros."""
    count, columns = rows.shape
    missing = -columns % BLOCK
    return (pad(rows, (0, missing)) if missing else rows).view(count, -1, BLOCK)
