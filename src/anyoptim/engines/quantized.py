"""Tensors in 8 bits: block-wise dynamic quantization. Source: arXiv 2110.02861, sections 1.2, 2.1 and 2.2.

Codes and maxima have bitsandbytes' values and stand in state dicts as they are. That is why GaLore's 8-bit moments are
not those of ``state_dtype=int8`` (``packing.py``): they are held against upstream's. A block does not end where a shard
does, so under FSDP2 every process holds such a moment whole: small after a projection, 2 bytes an element for an
embedding.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 256
"""Elements that share one absolute maximum."""
_TINY = 1e-38


@functools.cache
def dynamic_values(signed: bool) -> tuple[float, ...]:
    """Return the 256 numbers that a code stands for, ascending, in [-1, 1] or [0, 1].

    The leading zeros of a code are a decimal exponent, from 10**-6 to 1; the bits that are left divide [0.1, 1]
    into equal parts, the middle of each being a value. So each exponent has twice the values of the next smaller
    one. Beside them there are 0 and 1.

    Args:
        signed: one bit is the sign; otherwise it is one more bit of the fraction.
    """
    positive = []
    for exponent in range(-6, 1):
        parts = 2 ** (exponent + (6 if signed else 7))
        positive += [10.0**exponent * (0.1 + 0.9 * (part + 0.5) / parts) for part in range(parts)]
    negative = [-value for value in positive] if signed else []
    return tuple(sorted([*negative, 0.0, *positive, 1.0]))


def codebook(signed: bool, device: torch.device) -> Tensor:
    """Return :func:`dynamic_values` as a tensor (256,) of fp32."""
    return torch.tensor(dynamic_values(signed), dtype=torch.float32, device=device)


def quantize(tensor: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Return the code of the nearest value for each element, in units of its block's absolute maximum.

    What lies in the middle of two values gets the smaller one. A block that holds something not finite becomes NaN.

    Args:
        tensor: of any shape; its blocks are consecutive elements.
        codebook: see :func:`codebook`.

    Returns:
        codes (uint8, of the tensor's shape) and maxima (fp32, one for each block).
    """
    blocks = _blocks(tensor.to(torch.float32))
    maxima = blocks.abs().amax(dim=1)
    scaled = blocks * maxima.clamp(min=_TINY).reciprocal().unsqueeze(1)
    codes = torch.bucketize(scaled, (codebook[:-1] + codebook[1:]) / 2, out_int32=True).to(torch.uint8)
    return codes.view(-1)[: tensor.numel()].view(tensor.shape), maxima


def dequantize(codes: Tensor, maxima: Tensor, codebook: Tensor) -> Tensor:
    """Return what :func:`quantize` kept, contiguous, in fp32 and of the shape of ``codes``."""
    blocks = _blocks(codes)
    values = codebook.index_select(0, blocks.view(-1).int()).view_as(blocks).mul_(maxima.unsqueeze(1))
    return values.view(-1)[: codes.numel()].view(codes.shape)


def _blocks(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    return pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
