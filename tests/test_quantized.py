"""Block-wise dynamic quantization against bitsandbytes, which is an oracle here and nothing else."""

from __future__ import annotations

import io

import bitsandbytes.functional
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import anyoptim
from anyoptim.engines.quantized import BLOCK, codebook, dequantize, quantize
from anyoptim.memory.state import measured_state_bytes

CPU = torch.device("cpu")
SIGNED = pytest.mark.parametrize("signed", [True, False])


def numbers(size: int, signed: bool, seed: int = 0) -> Tensor:
    """Of many magnitudes, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(size, generator=generator) * 10 ** torch.empty(size).uniform_(-8, 4, generator=generator)
    return drawn if signed else drawn.square()


@SIGNED
def test_the_values_are_those_of_bitsandbytes(signed: bool) -> None:
    theirs = bitsandbytes.functional.create_dynamic_map(signed=signed)
    torch.testing.assert_close(codebook(signed, CPU), theirs, rtol=2e-7, atol=0)


@SIGNED
@pytest.mark.parametrize("size", [1, 255, 256, 257, 3000])
def test_codes_are_those_of_bitsandbytes(signed: bool, size: int) -> None:
    """Of its exact kernel, which compares with every value and takes fp64; the compiled one looks up 16 bits."""
    tensor, values = numbers(size, signed), codebook(signed, CPU)
    codes, maxima = quantize(tensor, values)
    theirs, their_maxima = torch.ops.bitsandbytes.quantize_blockwise.default(tensor.double(), values, BLOCK)
    assert torch.equal(maxima, their_maxima)
    assert torch.equal(codes, theirs)
    state = bitsandbytes.functional.QuantState(
        maxima, code=values, blocksize=BLOCK, dtype=torch.float32, shape=tensor.shape
    )
    restored = bitsandbytes.functional.dequantize_blockwise(codes, state)
    assert torch.equal(dequantize(codes, maxima, values), restored)


@SIGNED
@settings(max_examples=25)
@given(seed=st.integers(0, 2**20), shape=st.sampled_from([(7,), (16, 16), (3, 10, 20), (1000,)]))
def test_what_comes_back_is_near(signed: bool, seed: int, shape: tuple[int, ...]) -> None:
    """Within a quarter of a number's own decade, or a millionth of its block's maximum; and stays as it is then."""
    tensor, values = numbers(torch.Size(shape).numel(), signed, seed).view(shape), codebook(signed, CPU)
    codes, maxima = quantize(tensor, values)
    restored = dequantize(codes, maxima, values)
    assert codes.shape == restored.shape == tensor.shape and codes.dtype == torch.uint8
    largest = maxima.repeat_interleave(BLOCK)[: tensor.numel()].view(shape)
    assert ((restored - tensor).abs() <= tensor.abs() * 0.5 + largest * 1e-6).all()
    large = tensor.abs() >= largest * 0.11
    assert ((restored - tensor).abs()[large] <= (largest * (0.0071 if signed else 0.0036))[large] * 1.001).all()


@SIGNED
def test_the_largest_of_a_block_and_zero_are_exact(signed: bool) -> None:
    tensor = torch.tensor([0.0, 0.7, 0.0, 0.3])
    codes, maxima = quantize(tensor, codebook(signed, CPU))
    restored = dequantize(codes, maxima, codebook(signed, CPU))
    assert maxima.tolist() == [pytest.approx(0.7)]
    assert torch.equal(restored[:3], tensor[:3])


@SIGNED
def test_the_middle_of_two_values_gets_the_smaller_one(signed: bool) -> None:
    values = codebook(signed, CPU)
    codes, maxima = quantize(torch.cat([(values[:-1] + values[1:]) / 2, torch.ones(1)]), values)
    assert maxima == 1
    assert codes.tolist() == list(range(256))


@SIGNED
def test_zeros_stay_zeros(signed: bool) -> None:
    zeros = torch.zeros(300)
    codes, maxima = quantize(zeros, codebook(signed, CPU))
    assert torch.equal(dequantize(codes, maxima, codebook(signed, CPU)), zeros)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_spoils_its_block_only(bad: float) -> None:
    tensor = torch.ones(3 * BLOCK)
    tensor[BLOCK + 5] = bad
    codes, maxima = quantize(tensor, codebook(True, CPU))
    restored = dequantize(codes, maxima, codebook(True, CPU)).view(3, BLOCK)
    assert torch.equal(restored[[0, 2]], torch.ones(2, BLOCK))
    assert not restored[1].isfinite().any()


@pytest.mark.parametrize(
    ("name", "each"),
    [("torchao/adamw_8bit", 2.1), ("torchao/adamw_4bit", 1.1), ("adamw_torch_8bit", 2.1), ("adamw_8bit", 2.1)],
)
def test_quantized_state_is_counted_as_it_is_stored(name: str, each: float) -> None:
    """Against what is written to a file, which knows nothing of how we count."""
    model = torch.nn.Linear(512, 512, bias=False)
    planned = anyoptim.plan(name, model, lr=1e-3)
    optimizer = planned.build()
    model(torch.ones(4, 512)).sum().backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    assert planned.state_bytes == measured_state_bytes(optimizer)
    assert planned.state_bytes <= file.tell() <= planned.state_bytes + 30_000
    assert planned.state_bytes < each * 512 * 512
