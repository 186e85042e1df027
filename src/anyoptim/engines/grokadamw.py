"""GrokAdamW: AdamW that amplifies slow gradients, less so while evaluation lags behind training.

Source: the formula in the README of https://github.com/cognitivecomputations/grokadamw; slow gradients
are Grokfast's, arXiv 2405.20233.

torch.compile of its update took 41 s to compile and then 18 ms instead of 30 ms a step on 2 cores: there is no
compiled path, since a run must be long to win that back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from anyoptim.engines.arithmetic import adamw, bias_correction, pieces, wide
from anyoptim.engines.distributed import whole
from anyoptim.engines.engine import Engine


class GrokAdamW(Engine):
    """AdamW on ``g + lamb * ema(g)``, whose EMA forgets faster the stronger the grokking signal.

    State of a parameter: ``step``, ``exp_avg``, ``exp_avg_sq`` and ``grok_ema`` in its dtype and on its
    device. With ``i`` the position among a group's parameters that have a gradient::

        g      = gradient * min(1, gradient_clipping / norm(gradient))
        alpha  = alpha_init * exp(-grokking_signal_decay_rate * signal)
        ema    = alpha * ema + (1 - alpha) * g
        g      = g + lamb * ema
        m, v   = Adam's moments of g, m with beta1 * (1 - gamma) ** i
        weight = weight * (1 - lr * weight_decay) - lr * m_hat / v_hat   (eps and bias correction as Adam's, by beta1)

    The signal is the mean of ``grokking_signal_fns``; without them ``max(0, eval - train) / max(eval, train)``
    of the losses last given to :meth:`report_losses`, 0 before both are known.

    Args:
        params: parameters or param groups.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to the denominator.
        weight_decay: decoupled weight decay.
        alpha_init: momentum of the slow gradient without a signal.
        lamb: amplification of the slow gradient.
        gamma: by how much beta1 falls from one parameter to the next.
        grokking_signal_fns: each returns a signal or ``None``; they are no part of the state dict.
        grokking_signal_decay_rate: how fast the signal lowers alpha.
        gradient_clipping: norm that each parameter's gradient is clipped at; 0: off.
    """

    foreign_state = ("state", "grokadamw")

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        alpha_init: float = 0.98,
        lamb: float = 2.0,
        gamma: float = 0.1,
        grokking_signal_fns: Sequence[Callable[[], float | None]] | None = None,
        grokking_signal_decay_rate: float = 0.1,
        gradient_clipping: float = 1.0,
    ) -> None:
        self.grokking_signal_fns = grokking_signal_fns
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "alpha_init": alpha_init,
            "lamb": lamb,
            "gamma": gamma,
            "grokking_signal_decay_rate": grokking_signal_decay_rate,
            "gradient_clipping": gradient_clipping,
            "train_loss": None,
            "eval_loss": None,
        }
        super().__init__(params, defaults)

    def report_losses(self, *, train_loss: float | None = None, eval_loss: float | None = None) -> None:
        """Remember the latest losses, from which the next steps take the signal; ``None`` keeps the earlier one."""
        for group in self.param_groups:
            if train_loss is not None:
                group["train_loss"] = float(train_loss)
            if eval_loss is not None:
                group["eval_loss"] = float(eval_loss)

    def signal(self, group: dict[str, Any]) -> float:
        """Return the grokking signal of the next step of a group, 0 where nothing is known."""
        if self.grokking_signal_fns is not None:
            signals = [value for value in (each() for each in self.grokking_signal_fns) if value is not None]
            return sum(signals) / len(signals) if signals else 0.0
        train: float | None = group["train_loss"]
        evaluation: float | None = group["eval_loss"]
        if train is None or evaluation is None or max(train, evaluation) <= 0:
            return 0.0
        return max(0.0, evaluation - train) / max(train, evaluation)

    def alpha(self, group: dict[str, Any]) -> float:
        """Return the slow gradient's momentum in the next step of a group."""
        decay: float = math.exp(-group["grokking_signal_decay_rate"] * self.signal(group))
        return float(group["alpha_init"]) * decay

    def update_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Apply one step; see :class:`Engine`."""
        if not parameters:
            return
        alpha, (beta1, beta2) = self.alpha(group), group["betas"]
        states = [self._state_of(parameter) for parameter in parameters]
        for state in states:
            state["step"] += 1
        gradients = [parameter.grad for parameter in parameters]
        names = ("exp_avg", "exp_avg_sq", "grok_ema")
        for tensors, scalars in pieces(
            {
                "weight": [parameter.detach() for parameter in parameters],
                "gradient": gradients,  # type: ignore[dict-item]  # those without one are left out
                **{name: [state[name] for state in states] for name in names},
            },
            {
                "clip": _clip_factors(gradients, group["gradient_clipping"]),  # type: ignore[arg-type]
                "beta1": [beta1 * (1 - group["gamma"]) ** index for index in range(len(parameters))],
                "correction": [bias_correction(group["betas"], state["step"]) for state in states],
            },
        ):
            fast = tensors["gradient"]
            if group["gradient_clipping"] > 0:
                fast = list(torch._foreach_mul(fast, scalars["clip"]))
            torch._foreach_lerp_(tensors["grok_ema"], fast, 1 - alpha)
            slow = torch._foreach_add(fast, tensors["grok_ema"], alpha=group["lamb"])
            rows = zip(
                tensors["weight"],
                slow,
                tensors["exp_avg"],
                tensors["exp_avg_sq"],
                scalars["beta1"],
                scalars["correction"],
                strict=True,
            )
            for weight, gradient, exp_avg, exp_avg_sq, beta1, correction in rows:
                adamw(
                    weight,
                    gradient,
                    exp_avg,
                    exp_avg_sq,
                    lr=group["lr"],
                    correction=correction,
                    betas=(beta1, beta2),
                    eps=group["eps"],
                    weight_decay=group["weight_decay"],
                )

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = 0
            for name in ("exp_avg", "exp_avg_sq", "grok_ema"):
                state[name] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        return state


def _clip_factors(gradients: Sequence[Tensor], largest: float) -> list[Tensor | None]:
    """Return what each gradient is to be multiplied by, as tensors: reading a value would wait for the device."""
    if largest <= 0:
        return [None] * len(gradients)
    dtypes = [wide(each.dtype) for each in gradients]  # the norm of an fp16 gradient may be beyond fp16
    # torch 2.14 takes this dtype for the norm's order in a foreach call on DTensors
    if any(isinstance(each, DTensor) for each in gradients) or len(set(dtypes)) > 1:
        norms = [torch.linalg.vector_norm(each, dtype=dtype) for each, dtype in zip(gradients, dtypes, strict=True)]
    else:
        norms = list(torch._foreach_norm(list(gradients), dtype=dtypes[0]))
    return [(largest / (whole(norm) + 1e-6)).clamp(max=1.0) for norm in norms]
