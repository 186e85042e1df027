"""NorMuon: Muon whose neurons take steps of one size. Source: arXiv 2510.05491, Algorithm 1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from anyoptim.engines.arithmetic import wide
from anyoptim.engines.matrix_engine import MatrixEngine, advanced, frobenius
from anyoptim.engines.orthogonal import JORDAN, Coefficients, Method


class NorMuon(MatrixEngine):
    """Muon on matrices (m, n) and stacks (E, m, n), each row divided by the root of its second moment.

    State: ``momentum_buffer`` of the gradient's shape and dtype, ``second_momentum_buffer`` (m, 1) or (E, m, 1) in fp32
    or wider. The paper's algorithm is that of ``nesterov=False, adjust_lr_fn="match_rms_adamw"``; the defaults are
    those of its authors' code.

    Args:
        params: parameters or param groups.
        lr: learning rate, times the factor of ``adjust_lr_fn``.
        momentum: decay rate of the momentum, beta1 in the paper.
        beta2: decay rate of the rows' second moments.
        weight_decay: decoupled, at ``lr`` itself.
        nesterov: look ahead along the momentum.
        ns_coefficients: (a, b, c) of the polynomial ``ax + bx^3 + cx^5`` of an iteration.
        ns_steps: number of iterations.
        adjust_lr_fn: ``"original"`` or ``None``: a step is as long as Muon's before rows are divided, times
            ``sqrt(max(1, m / n))``; ``"match_rms_adamw"``: its RMS is 0.2, as AdamW's.
        eps: added to the roots and to the norm that a step is divided by.
        orthogonalize: how; see :func:`anyoptim.engines.orthogonal.orthogonalized`.

    Raises:
        ValueError: a parameter is no matrix and no stack of matrices.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        beta2: float = 0.95,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        ns_coefficients: Coefficients = JORDAN,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None,
        eps: float = 1e-10,
        orthogonalize: Method = "newton_schulz",
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "beta2": beta2,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "ns_coefficients": ns_coefficients,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
                "eps": eps,
                "orthogonalize": orthogonalize,
            },
        )

    def directions(
        self, group: dict[str, Any], gradients: Sequence[Tensor], states: Sequence[dict[str, Any]]
    ) -> list[Tensor]:
        """Return orthogonal momenta of even rows, in the gradients' dtype; see :class:`MatrixEngine`."""
        momenta = advanced(gradients, states, group["momentum"], group["nesterov"])
        found = self.orthogonal(group, momenta)
        return [
            self._even(group, direction.to(wide(gradient.dtype)), state).to(gradient.dtype)
            for direction, gradient, state in zip(found, gradients, states, strict=True)
        ]

    def _even(self, group: dict[str, Any], direction: Tensor, state: dict[str, Any]) -> Tensor:
        size = frobenius(direction)
        if group["adjust_lr_fn"] == "match_rms_adamw":
            size = torch.full_like(size, math.sqrt(min(direction.shape[-2:])))  # of an orthogonal matrix
        squared = direction.square().mean(dim=-1, keepdim=True)
        if "second_momentum_buffer" not in state:
            state["second_momentum_buffer"] = torch.zeros_like(squared)
        second: Tensor = state["second_momentum_buffer"]
        second.lerp_(squared, 1 - group["beta2"])
        direction = direction / second.sqrt().add_(group["eps"])
        return direction.mul_(size / frobenius(direction).add_(group["eps"]))
