"""Muon: momentum whose matrices are made orthogonal.

Source: Keller Jordan, https://kellerjordan.github.io/posts/muon/; the learning rate that matches AdamW's updates is
arXiv 2502.16982, section 2.2. Agrees with torch.optim.Muon bit for bit on matrices that are not multiplied in stacks,
see :func:`anyoptim.engines.orthogonal.orthogonalized`; on others but for rounding.

It is there for stacks and shards, which torch's class does not take.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from anyoptim.engines.matrix_engine import MatrixEngine, advanced
from anyoptim.engines.orthogonal import EPS, JORDAN, Coefficients, Method


class Muon(MatrixEngine):
    """Muon on matrices (m, n) and on each of the matrices of a stack (E, m, n).

    State: ``momentum_buffer`` of the gradient's shape and dtype. The momentum's singular values are brought near to
    one by ``ns_steps`` iterations in bf16.

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
        orthogonalize: how; see :func:`anyoptim.engines.orthogonal.orthogonalized`.

    Raises:
        ValueError: a parameter is no matrix and no stack of matrices.
    """

    direction_dtype: ClassVar[torch.dtype | None] = torch.bfloat16

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: Coefficients = JORDAN,
        eps: float = EPS,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None,
        orthogonalize: Method = "newton_schulz",
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
                "orthogonalize": orthogonalize,
            },
        )

    def directions(
        self, group: dict[str, Any], gradients: Sequence[Tensor], states: Sequence[dict[str, Any]]
    ) -> list[Tensor]:
        """Return orthogonal momenta, in bf16; see :class:`MatrixEngine`."""
        momenta = advanced(gradients, states, group["momentum"], group["nesterov"])
        return self.orthogonal(group, momenta, group["eps"])
