"""AdaMuon: Muon with a second moment of each weight's orthogonal updates. Source: arXiv 2507.11005, Algorithm 1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from anyoptim.engines.arithmetic import wide
from anyoptim.engines.matrix_engine import MatrixEngine, advanced, frobenius
from anyoptim.engines.orthogonal import JORDAN, Coefficients, Method


class AdaMuon(MatrixEngine):
    """Muon on matrices (m, n) and stacks (E, m, n), each weight's step divided by the root of its second moment.

    State: ``momentum_buffer`` of the gradient's shape and dtype, ``second_momentum_buffer`` of that shape in fp32 or
    wider. Second moments are not corrected for their start at zero: a step's length is fixed, which cancels it.

    Args:
        params: parameters or param groups.
        lr: learning rate, times the factor of ``adjust_lr_fn``.
        betas: decay rates of the momentum and of the second moments; one number in the paper.
        weight_decay: decoupled, at ``lr`` itself.
        sign: orthogonalize the momentum's signs, as the paper does; ``False``: the momentum itself, as its first
            version did.
        ns_coefficients: (a, b, c) of the polynomial ``ax + bx^3 + cx^5`` of an iteration.
        ns_steps: number of iterations.
        adjust_lr_fn: ``"match_rms_adamw"``: a step's RMS is 0.2, as AdamW's and in the paper; ``"original"`` or
            ``None``: it is as long as an orthogonal matrix, times ``sqrt(max(1, m / n))``.
        eps: added to the roots and to the norm that a step is divided by.
        orthogonalize: how; see :func:`anyoptim.engines.orthogonal.orthogonalized`.

    Raises:
        ValueError: a parameter is no matrix and no stack of matrices.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        weight_decay: float = 0.1,
        sign: bool = True,
        ns_coefficients: Coefficients = JORDAN,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = "match_rms_adamw",
        eps: float = 1e-8,
        orthogonalize: Method = "newton_schulz",
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "weight_decay": weight_decay,
                "sign": sign,
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
        """Return orthogonal momenta of even elements, in the gradients' dtype; see :class:`MatrixEngine`."""
        momenta = advanced(gradients, states, group["betas"][0], nesterov=False)
        if group["sign"]:
            signs = torch._foreach_sign(momenta)
            # to torch the sign of NaN is 0, which would hide it
            torch._foreach_add_(signs, momenta, alpha=0)
            momenta = list(signs)
        found = self.orthogonal(group, momenta)
        return [
            self._even(group, direction.to(wide(gradient.dtype)), state).to(gradient.dtype)
            for direction, gradient, state in zip(found, gradients, states, strict=True)
        ]

    def _even(self, group: dict[str, Any], direction: Tensor, state: dict[str, Any]) -> Tensor:
        if "second_momentum_buffer" not in state:
            state["second_momentum_buffer"] = torch.zeros_like(direction, memory_format=torch.contiguous_format)
        second: Tensor = state["second_momentum_buffer"]
        second.mul_(group["betas"][1]).addcmul_(direction, direction, value=1 - group["betas"][1])
        direction = direction / second.sqrt().add_(group["eps"])
        return direction.mul_(math.sqrt(min(direction.shape[-2:])) / frobenius(direction).add_(group["eps"]))
