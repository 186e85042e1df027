"""Muon: momentum whose matrices are made orthogonal.

Source: Keller Jordan, https://kellerjordan.github.io/posts/muon/; the learning rate that matches AdamW's updates is
arXiv 2502.16982, section 2.2. Agrees with torch.optim.Muon bit for bit on
matrices; on stacks but for the rounding of a batched product in bf16.

It is there for stacks and shards, which torch's class does not take: iterations are batched over a stack of experts,
and under FSDP2 the momentum of one matrix at a time is gathered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from anyoptim.engines.distributed import local, part, whole
from anyoptim.engines.engine import Engine
from anyoptim.engines.pieces import cut, join, shapes, weighed


class Muon(Engine):
    """Muon on matrices (m, n) and on each of the matrices of a stack (E, m, n).

    State: ``momentum_buffer`` of the parameter's shape and dtype. The momentum's singular values are brought near to
    one by ``ns_steps`` Newton-Schulz iterations in bf16; a sharded matrix is gathered for it.

    ``split`` and ``flatten`` in a group say of which matrices its parameters consist; see ``anyoptim.engines.pieces``.

    Args:
        params: parameters or param groups.
        lr: learning rate, times the factor of ``adjust_lr_fn``.
        weight_decay: decoupled, at ``lr`` itself.
        momentum: decay rate of the momentum.
        nesterov: look ahead along the momentum.
        ns_coefficients: (a, b, c) of the polynomial ``ax + bx^3 + cx^5`` of an iteration.
        eps: least norm that a matrix is divided by before the iterations.
        ns_steps: number of iterations.
        adjust_lr_fn: ``"original"`` or ``None``: ``sqrt(max(1, m / n))``; ``"match_rms_adamw"``:
            ``0.2 * sqrt(max(m, n))``, which makes updates as large as AdamW's.

    Raises:
        ValueError: a parameter is no matrix and no stack of matrices.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_coefficients": ns_coefficients,
                "eps": eps,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
            },
        )

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
        for parameter in parameters:
            if parameter.numel():
                self._update(group, parameter)

    def _update(self, group: dict[str, Any], parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum: Tensor = state["momentum_buffer"]
        momentum.lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        # rounded first, since the iterations round it anyway: half the bytes are gathered
        pieces = [
            newton_schulz(each, group["ns_coefficients"], group["ns_steps"], group["eps"])
            for each in cut(whole(direction.bfloat16()), group)
        ]
        reference = shapes(parameter.shape, group)[0]
        pieces = weighed(pieces, lambda shape: _factor(group, shape), reference)
        update = join(pieces, group, parameter.shape)
        weight = local(parameter.detach())
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(part(update, parameter), alpha=-group["lr"] * _factor(group, reference))


def _factor(group: Mapping[str, Any], shape: Sequence[int]) -> float:
    """Return what a matrix's learning rate is multiplied by."""
    rows, columns = shape[-2:]
    if group["adjust_lr_fn"] == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns))


def newton_schulz(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Return matrices of the same singular vectors with singular values near one, in bf16.

    ``X = aX + (bA + cA^2)X`` with ``A = X X^T``, from X divided by its Frobenius norm.

    Args:
        matrix: (m, n) or (E, m, n).
        coefficients: (a, b, c).
        steps: number of iterations.
        eps: least norm that is divided by.
    """
    a, b, c = coefficients
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.bfloat16()
    x = x.mT if tall else x  # the smaller Gram matrix
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=eps)
    # one kernel for product and sum; on a stack, one for all of its matrices
    multiply_add = torch.addmm if x.dim() == 2 else torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mT
        x = multiply_add(x, multiply_add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
