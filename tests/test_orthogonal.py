"""Matrices made orthogonal: against torch's function, float64 and the least that a polynomial can miss 1 by."""

from __future__ import annotations

import math
from typing import Any

import numpy
import polar_express
import pytest
import torch
from torch import Tensor
from torch.optim._muon import _zeropower_via_newtonschulz

from anyoptim.engines import orthogonal
from anyoptim.engines.adamuon import AdaMuon
from anyoptim.engines.muon import Muon
from anyoptim.engines.normuon import NorMuon
from anyoptim.engines.orthogonal import JORDAN, POLAR_EXPRESS, orthogonalized, stacks

LARGE = [(160, 200), (200, 160), (130, 130)]
SMALL = [(12, 8), (8, 12), (5, 5), (3, 6, 4), (2, 4, 7), (64, 64), (16, 48)]


def drawn(shape: tuple[int, ...], seed: int = 0, spread: float = 0.0) -> Tensor:
    """A matrix in bf16, or one whose singular values fall by ``10 ** -spread``."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if spread:
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        x = u @ torch.diag(torch.logspace(0, -spread, len(s))) @ vh
    return x.bfloat16()


def alone(x: Tensor, method: Any, steps: int = 5) -> Tensor:
    return orthogonalized([x.clone()], method, JORDAN, steps)[0]


def in_float64(x: Tensor, method: str, steps: int = 5) -> Tensor:
    """By the definition of each iteration."""
    if x.dim() == 3:
        return torch.stack([in_float64(each, method, steps) for each in x])
    x = x.double()
    schedule, safety = [JORDAN] * steps, 1.0
    if method == "polar_express":
        found = polar_express.schedule()
        schedule, safety = [*found, *[found[-1]] * steps][:steps], 1.01
    x = x / (safety * x.norm())
    for a, b, c in schedule:
        x = a * x + b * x @ x.T @ x + c * x @ x.T @ x @ x.T @ x
    return x


@pytest.mark.parametrize("shape", LARGE)
def test_large_matrices_are_torchs_bit_for_bit(shape: tuple[int, int]) -> None:
    x = drawn(shape)
    assert torch.equal(alone(x, "newton_schulz"), _zeropower_via_newtonschulz(x.float(), JORDAN, 5, 1e-7))


@pytest.mark.parametrize("method", ["newton_schulz", "polar_express", "gram"])
@pytest.mark.parametrize("shape", [*SMALL, (40, 100), (100, 40)], ids=str)
def test_fp32_products_are_those_of_float64(shape: Any, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orthogonal, "_MULTIPLIES_BF16", False)
    x = drawn(shape)
    torch.testing.assert_close(alone(x, method).double(), in_float64(x, method), rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("method", ["newton_schulz", "polar_express", "gram"])
def test_what_stands_beside_a_matrix_changes_nothing(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orthogonal, "STACK_BYTES", 6 * 2 * 12 * 8)
    shapes = [*SMALL, *LARGE[:1]] * 3
    matrices = [drawn(shape, seed) for seed, shape in enumerate(shapes)]
    together = orthogonalized([each.clone() for each in matrices], method, JORDAN, 5)
    for each, found in zip(matrices, together, strict=True):
        assert found.shape == each.shape and found.dtype == torch.bfloat16
        assert torch.equal(found, alone(each, method))


def test_stacks_are_of_one_shape_and_within_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orthogonal, "STACK_BYTES", 1000)
    tensors = [torch.empty(each) for each in [(8, 12), (12, 8), (9, 9), (8, 12), (4, 8, 12), (8, 12), (7, 8, 12)]]
    tensors += [torch.empty(8, 12, dtype=torch.float64), torch.empty(200, 200), torch.empty(200, 200)]
    assert stacks(tensors) == [[0, 1, 3], [2], [4, 5], [6], [7], [8], [9]]


@pytest.mark.parametrize("engine", [Muon, NorMuon, AdaMuon])
def test_a_weight_may_lie_in_parts_elsewhere(engine: Any) -> None:
    """The protocol: directions from gradients and states alone, applied to columns of the weight."""
    weight, gradient = torch.nn.Parameter(drawn((12, 30)).float()), drawn((12, 30), 1).float()
    elsewhere, state = weight.detach().clone(), {}
    optimizer = engine([weight], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        weight.grad = gradient
        optimizer.step()
        (direction,) = optimizer.directions(optimizer.param_groups[0], [gradient], [state])
        for columns in (slice(0, 11), slice(11, 30)):
            optimizer.apply(
                optimizer.param_groups[0], elsewhere[:, columns], direction[:, columns], torch.Size((12, 30))
            )
    assert torch.equal(weight.detach(), elsewhere)
    assert {key: value.shape for key, value in state.items()} == {
        key: value.shape for key, value in optimizer.state[weight].items()
    }


def test_polar_express_is_the_papers() -> None:
    """The engine's table is what the tool computes, which meets the numbers that the paper prints."""
    for ours, found in zip(POLAR_EXPRESS, polar_express.schedule(), strict=True):
        assert ours == pytest.approx(found, rel=1e-8)
    printed = [(8.28721, -23.59588, 17.30038), (4.10705, -2.94784, 0.54484), (3.94869, -2.90890, 0.55181)]
    for safe, each in zip(POLAR_EXPRESS, printed, strict=False):
        assert [safe[0] * 1.01, safe[1] * 1.01**3, safe[2] * 1.01**5] == pytest.approx(each, abs=2e-5)


@pytest.mark.parametrize(("low", "high"), [(0.02, 1.0), (0.1, 1.9), (0.6, 1.4)])
def test_a_quintic_of_polar_express_is_the_nearest_to_one(low: float, high: float) -> None:
    """It misses 1 by the same at four points, with signs in turn, and nowhere by more (Chebyshev)."""
    quintic, error = polar_express.nearest_to_one(low, high)
    x = numpy.linspace(low, high, 20_001)
    misses = 1 - polar_express.value(quintic, x)  # type: ignore[arg-type]  # a tensor for an array
    assert numpy.abs(misses).max() == pytest.approx(error, rel=1e-5)
    extremes = misses[numpy.abs(misses) > error * (1 - 1e-5)]
    assert 1 + (numpy.diff(numpy.sign(extremes)) != 0).sum() == 4


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize(
    ("method", "least", "most"), [("newton_schulz", 0.5, 1.3), ("gram", 0.5, 1.4), ("polar_express", 0.7, 1.3)]
)
def test_singular_values_come_near_to_one(
    method: Any, least: float, most: float, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a matrix whose smallest are lost in 16 bits, where none may grow."""
    monkeypatch.setattr(orthogonal, "_MULTIPLIES_BF16", bf16)
    found = torch.linalg.svdvals(alone(drawn((48, 192)), method).double())
    assert found.min() > least and found.max() < most
    falling = torch.linalg.svdvals(alone(drawn((48, 192), spread=4), method).double())
    assert falling.max() < most


def test_the_gram_form_is_taken_where_its_products_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    inner = orthogonal._gram
    monkeypatch.setattr(orthogonal, "_gram", lambda x, schedule: taken.append(x.shape[-2:]) or inner(x, schedule))
    for shape in [(10, 10), (10, 19), (10, 20), (20, 10), (3, 10, 30)]:
        alone(drawn(shape), "gram")
    assert [tuple(each) for each in taken] == [(10, 20), (10, 20), (10, 30)]
    assert math.isfinite(float(alone(torch.zeros(4, 9, dtype=torch.bfloat16), "gram").sum()))
