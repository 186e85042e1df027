"""Engines whose step on a matrix is a direction, found without the weight, and a move along it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from anyoptim.engines.engine import Engine
from anyoptim.engines.orthogonal import EPS, orthogonalized, stacks
from anyoptim.engines.pieces import cut, join, shapes, weighed


class MatrixEngine(Engine):
    """Muon and what is made from it, on matrices (m, n) and on each of the matrices of a stack (E, m, n).

    ``split`` and ``flatten`` in a group say of which matrices its parameters consist; see ``anyoptim.engines.pieces``.
    Where a weight lies elsewhere, :meth:`directions` runs on whole gradients and states, and :meth:`apply` on parts.

    Raises:
        ValueError: a parameter is no matrix and no stack of matrices.
    """

    direction_dtype: ClassVar[torch.dtype | None] = None
    """The dtype of directions; ``None``: the gradient's."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of matrices and stacks of matrices, or of what its ``split`` and ``flatten`` make such."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            for each in group["params"]:
                shapes(each.shape, group)
        except ValueError:
            self.param_groups.pop()
            raise

    def update_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Apply one step; see :class:`Engine`."""
        held = [each for each in parameters if each.numel()]
        gradients = [each.grad for each in held if each.grad is not None]
        for places in stacks(gradients):
            states = [self.state[held[place]] for place in places]
            for place, direction in zip(
                places, self.directions(group, [gradients[place] for place in places], states), strict=True
            ):
                self.apply(group, held[place].detach(), direction, held[place].shape)

    @staticmethod
    def cost(shape: torch.Size) -> float:
        """Return what a step on a parameter takes, in multiplications of one iteration's first product."""
        return shape.numel() * min(shape[-2:])

    def directions(
        self, group: dict[str, Any], gradients: Sequence[Tensor], states: Sequence[dict[str, Any]]
    ) -> list[Tensor]:
        """Advance states in place and return where the weights move, several of one shape at a time.

        Args:
            group: one of the groups, or its values.
            gradients: whole and plain, (m, n) or (E, m, n), none of them empty.
            states: one for each; empty before the first step.

        Returns:
            a direction of the gradient's shape for each; its layout may be another.
        """
        raise NotImplementedError

    def apply(self, group: dict[str, Any], weight: Tensor, direction: Tensor, shape: torch.Size) -> None:
        """Move a weight in place: decoupled weight decay, and ``lr`` times the factor of ``adjust_lr_fn``.

        Args:
            group: one of the groups, or its values.
            weight: plain; the whole or any part of it.
            direction: the same part of what :meth:`directions` returned.
            shape: of the whole.
        """
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(direction, alpha=-group["lr"] * _factor(group, shapes(shape, group)[0]))

    def orthogonal(self, group: dict[str, Any], momenta: Sequence[Tensor], eps: float = EPS) -> list[Tensor]:
        """Return momenta made orthogonal, in bf16: each of the matrices that a group says they consist of by itself.

        Args:
            group: has orthogonalize, ns_coefficients, ns_steps and adjust_lr_fn; ``split`` and ``flatten`` perhaps.
            momenta: in bf16; they may be overwritten.
            eps: least norm that a matrix is divided by.
        """
        pieces = [cut(each, group) for each in momenta]
        every = [piece for each in pieces for piece in each]
        found = iter(orthogonalized(every, group["orthogonalize"], group["ns_coefficients"], group["ns_steps"], eps))
        made = []
        for momentum, each in zip(momenta, pieces, strict=True):
            own = [next(found) for _ in each]
            reference = shapes(momentum.shape, group)[0]
            made.append(join(weighed(own, lambda shape: _factor(group, shape), reference), group, momentum.shape))
        return made


def advanced(
    gradients: Sequence[Tensor], states: Sequence[dict[str, Any]], decay: float, nesterov: bool
) -> list[Tensor]:
    """Advance each ``momentum_buffer``, of the gradient's shape and dtype, and return copies in bf16.

    Args:
        gradients: stay as they are.
        states: one for each; a momentum that is not there yet is zero.
        decay: rate of the momentum.
        nesterov: return what lies ahead along the momentum.
    """
    for gradient, state in zip(gradients, states, strict=True):
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
    momenta: list[Tensor] = [state["momentum_buffer"] for state in states]
    torch._foreach_lerp_(momenta, list(gradients), 1 - decay)
    ahead = torch._foreach_lerp(list(gradients), momenta, decay) if nesterov else momenta
    return [each.to(torch.bfloat16, copy=True) for each in ahead]


def frobenius(direction: Tensor) -> Tensor:
    """Return the norm of a matrix, or of each of a stack, with as many dimensions."""
    norm: Tensor = torch.linalg.vector_norm(direction, dim=(-2, -1), keepdim=True)
    return norm


def _factor(group: Mapping[str, Any], shape: Sequence[int]) -> float:
    """Return what a matrix's learning rate is multiplied by."""
    rows, columns = shape[-2:]
    if group["adjust_lr_fn"] == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns))
