"""Which parameters, or rows of them, a step on packed state takes at once: by shapes alone, so it can be planned."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from anyoptim.engines.ownership import BATCH_BYTES, batches

CACHED = 2**19
"""Elements that an element-wise step takes at once on a CPU: fewer fit the cache better, and cost more in calls."""
BYTES_OF_AN_ELEMENT = 32
"""What an element takes in a batch: its weight, gradient and two moments in fp32, and what a step makes of them."""


@dataclass(frozen=True)
class Piece:
    """A parameter, or some of its rows, that a step takes at once.

    Args:
        index: of its group.
        parameter: a plain tensor.
        rows: which; ``None``: all.
    """

    index: int
    parameter: Tensor
    rows: slice | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """Return the piece's part of the parameter, or of what has its rows."""
        return tensor if self.rows is None else tensor[self.rows]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the piece."""
        shape = tuple(self.parameter.shape)
        return shape if self.rows is None else (self.rows.stop - self.rows.start, *shape[1:])


def step_batches(
    given: Sequence[tuple[int, Tensor]], *, by_rows: Collection[int], bound: float = BATCH_BYTES
) -> Iterator[list[Piece]]:
    """Yield what is stepped on at once: pieces of one shape together, as many as the bound allows.

    Args:
        given: parameters, each with the index of its group.
        by_rows: the groups in which a step may take some rows of a parameter after others.
        bound: bytes; a piece that needs more is alone.
    """
    for cut in (True, False):
        chosen = [each for each in given if (each[0] in by_rows) is cut]
        most = _elements(chosen, cut, bound)
        pieces = [
            piece for index, parameter in chosen for piece in _pieces(index, parameter, most if cut else math.inf)
        ]
        order = [(each.shape, str(each.parameter.dtype)) for each in pieces]
        sizes = [math.prod(each.shape) for each in pieces]
        for numbers in batches([0] * len(pieces), sizes, order, most):
            yield [pieces[number] for number in numbers]


def _elements(given: Sequence[tuple[int, Tensor]], cut: bool, bound: float) -> float:
    most = bound / BYTES_OF_AN_ELEMENT
    on_cpu = bool(given) and given[0][1].device.type == "cpu"
    return min(most, CACHED) if cut and on_cpu and bound < math.inf else most


def _pieces(index: int, parameter: Tensor, most: float) -> Iterator[Piece]:
    gradient = parameter.grad
    sparse = gradient is not None and gradient.is_sparse
    if parameter.dim() < 2 or parameter.numel() <= most or sparse:
        yield Piece(index, parameter)
        return
    rows = max(1, int(most // parameter.shape[1:].numel()))
    for start in range(0, parameter.shape[0], rows):
        yield Piece(index, parameter, slice(start, min(start + rows, parameter.shape[0])))
