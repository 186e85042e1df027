"""The transforms of :mod:`anyoptim.engines.packing` as torch runs them, or each compiled into one pass over memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from anyoptim.engines import packing
from anyoptim.engines.packing import BLOCK
from anyoptim.errors import UnsupportedError
from anyoptim.text import said


@dataclass(frozen=True)
class Transforms:
    """What packs and unpacks; see the functions of the same names."""

    pack: Callable[[Tensor, int, bool | None], tuple[Tensor, Tensor]] = packing.pack
    unpack: Callable[[Tensor, Tensor, int, Sequence[int]], Tensor] = packing.unpack
    split: Callable[[Tensor, torch.dtype, int], tuple[Tensor, Tensor]] = packing.split
    join: Callable[[Tensor, Tensor], Tensor] = packing.join


EAGER = Transforms()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of tensors compiled for any number of rows, which says what to do where there is no compiler.

    Raises:
        UnsupportedError: when it is called, torch.compile fails.
    """
    made = torch.compile(function, dynamic=True)

    def called(*args: Any) -> Any:
        try:
            return made(*args)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise UnsupportedError(
                f"compiled_step: torch.compile fails here: {said(error)}. Leave compiled_step out."
            ) from error

    return called


@lru_cache(maxsize=1)
def compiled_transforms() -> Transforms:
    """Return the transforms compiled; they make the same bits."""
    on_blocks, of_blocks = compiled(packing.pack), compiled(_unpack_blocks)
    on_flat, of_flat = compiled(packing.split), compiled(packing.join)

    def pack(values: Tensor, bits: int, signed: bool | None) -> tuple[Tensor, Tensor]:
        if not _has_whole_blocks(values.shape):
            return packing.pack(values, bits, signed)
        codes, scales = on_blocks(values.reshape(-1, BLOCK), bits, signed)
        rows = values.shape[0]
        return codes.view(values.shape if bits == 8 else (rows, -1)), scales.view(rows, -1)

    def unpack(codes: Tensor, scales: Tensor, bits: int, shape: Sequence[int]) -> Tensor:
        if not _has_whole_blocks(torch.Size(shape)):
            return packing.unpack(codes, scales, bits, shape)
        wide: Tensor = of_blocks(codes.reshape(-1, BLOCK * bits // 8), scales.reshape(-1, 1), bits)
        return wide.view(*shape)

    def split(wide: Tensor, dtype: torch.dtype, bits: int) -> tuple[Tensor, Tensor]:
        low, remainder = on_flat(wide.reshape(-1), dtype, bits)
        return low.view(wide.shape), remainder.view(wide.shape)

    def join(low: Tensor, remainder: Tensor) -> Tensor:
        wide: Tensor = of_flat(low.reshape(-1), remainder.reshape(-1))
        return wide.view(low.shape)

    return Transforms(pack, unpack, split, join)


def _unpack_blocks(codes: Tensor, scales: Tensor, bits: int) -> Tensor:
    return packing.unpack(codes, scales, bits, (codes.shape[0], BLOCK))


def _has_whole_blocks(shape: torch.Size) -> bool:
    """Whether rows are of whole blocks, so that a compiler sees one number of blocks and their length."""
    return shape.numel() > BLOCK and shape[1:].numel() % BLOCK == 0
