"""Matrices made orthogonal by products alone: Newton-Schulz iterations, Polar Express, the Gram form; in stacks.

Sources: Keller Jordan, https://kellerjordan.github.io/posts/muon/; arXiv 2505.16932 (Polar Express, and the Gram form
in its appendix); the new start of the Gram form in 16 bits, https://dao-lab.ai/blog/2026/gram-newton-schulz.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Method = Literal["newton_schulz", "polar_express", "gram"]
Coefficients = tuple[float, float, float]
"""(a, b, c) of the polynomial ``ax + bx^3 + cx^5`` that an iteration applies to singular values."""

JORDAN: Coefficients = (3.4445, -4.7750, 2.0315)
POLAR_EXPRESS: tuple[Coefficients, ...] = (
    (8.205160414005569, -22.90193498705604, 16.460724910180307),
    (4.066395159942772, -2.861154086755142, 0.5183995226694742),
    (3.9095949044379146, -2.8233517350395134, 0.5250369769390019),
    (3.285564017198614, -2.4153019596359453, 0.48529406552790877),
    (2.277873287083978, -1.6198217652654403, 0.39848078704168294),
    (1.8725756512746525, -1.2307042574884322, 0.35851616209511766),
    (1.8564371097470567, -1.2132392819012414, 0.3567997894052943),
    (1.875, -1.25, 0.375),
)
"""Of each iteration, the last for all further ones; ``tools/polar_express.py`` computes them."""
_SAFETY = 1.01
"""Polar Express' polynomials fall steeply beyond 1, where rounding may bring a matrix that is divided by its norm."""

EPS = 1e-7
SMALL = 2**14
"""Elements up to which a CPU multiplies several matrices at once; larger ones fill its cores alone."""
STACK_BYTES = 2**26
"""Bound of a stack in bf16; iterations hold about three times as much."""
LONG = 2
"""How often the shorter side fits into the longer one where the Gram form is taken: it has fewer products from 1.5."""
GRAM_STEPS = 2
"""Iterations on a Gram matrix in 16 bits until it is computed anew: rounded eigenvalues below 0 grow."""
_MULTIPLIES_BF16 = torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "SVE"))
"""Whether this CPU does: others take 40 times as long as in fp32."""


def orthogonalized(
    matrices: Sequence[Tensor], method: Method, coefficients: Coefficients, steps: int, eps: float = EPS
) -> list[Tensor]:
    """Return, in bf16, matrices of the same singular vectors with singular values near one.

    A matrix comes out the same whatever stands beside it. One of more than ``SMALL`` elements does by
    ``newton_schulz`` on a CPU as in torch.optim.Muon, bit for bit; all else are products of stacks.

    Args:
        matrices: (m, n) or (E, m, n), in bf16; they may be overwritten.
        method: ``"newton_schulz"``; ``"gram"``, the same polynomials by products of Gram matrices where these are
            fewer; ``"polar_express"``, the best polynomials for each iteration.
        coefficients: of the first two.
        steps: number of iterations.
        eps: least norm that a matrix is divided by.
    """
    schedule = [coefficients] * steps
    if method == "polar_express":
        schedule = [POLAR_EXPRESS[min(step, len(POLAR_EXPRESS) - 1)] for step in range(steps)]
    safety = _SAFETY if method == "polar_express" else 1.0
    found = list(matrices)
    for indices in stacks(matrices):
        chosen = [matrices[index] for index in indices]
        wide = [each.mT if _is_tall(each) else each for each in chosen]
        alone = not _is_stacked(chosen[0])
        x = wide[0] if alone else torch.cat([each if each.dim() == 3 else each.unsqueeze(0) for each in wide])
        if x.is_cpu and not _MULTIPLIES_BF16 and not (alone and method == "newton_schulz"):
            x = x.float()
        x = x.div_((torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) * safety).clamp(min=eps))
        iterate = _gram if method == "gram" and x.shape[-1] >= LONG * x.shape[-2] else _plain
        x = iterate(x, schedule).bfloat16()
        parts = [x] if alone else torch.split(x, [len(each) if each.dim() == 3 else 1 for each in chosen])
        for index, each, part in zip(indices, chosen, parts, strict=True):
            found[index] = (part.mT if _is_tall(each) else part).view(each.shape)
    return found


def stacks(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Return the places of matrices and stacks that are orthogonalized at once: of one shape, or its transpose.

    Args:
        tensors: (m, n) or (E, m, n), or gradients of these shapes.

    Returns:
        lists within ``STACK_BYTES``, or of one place.
    """
    found: list[list[int]] = []
    last: dict[object, int] = {}
    room: dict[object, int] = {}
    for place, each in enumerate(tensors):
        key = (*sorted(each.shape[-2:]), each.dtype, each.device) if _is_stacked(each) else place
        size = 2 * each.numel()
        if key not in last or room[key] < size:
            last[key], room[key] = len(found), STACK_BYTES
            found.append([])
        found[last[key]].append(place)
        room[key] -= size
    return found


def _is_stacked(tensor: Tensor) -> bool:
    """Whether it is multiplied as a stack, also where nothing else is of its shape."""
    return tensor.dim() == 3 or tensor.device.type != "cpu" or tensor.numel() <= SMALL


def _is_tall(tensor: Tensor) -> bool:
    return tensor.shape[-2] > tensor.shape[-1]


def _plain(x: Tensor, schedule: Sequence[Coefficients]) -> Tensor:
    """``X = aX + (bA + cA^2)X`` with ``A = X X^T``."""
    multiply_add = _multiply_add(x)
    for a, b, c in schedule:
        gram = x @ x.mT
        x = multiply_add(x, multiply_add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _gram(x: Tensor, schedule: Sequence[Coefficients]) -> Tensor:
    """The same from ``A``: ``P = aI + bA + cA^2``, ``Q = PQ``, ``A = PAP`` (they commute), and ``QX`` at the end."""
    multiply_add = _multiply_add(x)
    length = GRAM_STEPS if x.dtype == torch.bfloat16 else len(schedule)
    for start in range(0, len(schedule), length):
        gram, product = x @ x.mT, None
        rest = schedule[start : start + length]
        for left, (a, b, c) in zip(reversed(range(len(rest))), rest, strict=True):
            factor = multiply_add(gram, gram, gram, beta=b, alpha=c)
            factor.diagonal(dim1=-2, dim2=-1).add_(a)
            product = factor if product is None else factor @ product
            if left:
                gram = factor @ gram @ factor
        assert product is not None
        x = product @ x
    return x


def _multiply_add(x: Tensor) -> Callable[..., Tensor]:
    """One kernel for product and sum; on a stack, one for all of its matrices."""
    return torch.addmm if x.dim() == 2 else torch.baddbmm
