"""Lookahead around an optimizer. Source: arXiv 1907.08610."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from anyoptim.engines.engine import refuse_capture
from anyoptim.engines.stepping import step_inside
from anyoptim.engines.wrapper import Wrapper

_SLOW = "slow_weight"


class Lookahead(Wrapper):
    """Lookahead: every ``k`` steps, slow weights go a part of the way to the fast ones, which start there again.

    Source: arXiv 1907.08610, Algorithm 1; the inner optimizer's moments are kept.

    Args:
        optimizer: takes the fast steps.
        k: fast steps for one slow step.
        alpha: the part of the way, from 0 to 1.
    """

    name = "lookahead"
    state_keys = frozenset({_SLOW})

    def __init__(self, optimizer: Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        super().__init__(optimizer, k=k, alpha=alpha)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch has overloads
        """Take a fast step, and a slow one when it is time.

        Args:
            closure: computes the loss again and returns it.

        Raises:
            UnsupportedError: a CUDA graph is being captured.
        """
        refuse_capture(self)
        if torch.compiler.is_compiling() and self.starts(_SLOW):
            return self.step_uncompiled(closure)  # type: ignore[no-any-return]  # torch's decorator
        before: dict[Tensor, Tensor] = {}

        def keep() -> None:
            for _, parameter in self.with_gradients():
                if _SLOW not in self.state.get(parameter, {}) and parameter not in before:
                    before[parameter] = parameter.detach().clone()

        def evaluated() -> float:
            assert closure is not None
            with torch.enable_grad():
                loss = closure()
            if not before:  # an inner optimizer that evaluates often has moved the weights by then
                keep()
            return loss

        keep()
        loss: float | None = step_inside(self.optimizer, evaluated if closure else None)
        for parameter, weight in before.items():
            self.state[parameter][_SLOW] = weight
        for group in self.param_groups:
            group["lookahead_step"] = group.get("lookahead_step", 0) + 1
            if group["lookahead_step"] % group["lookahead_k"]:
                continue
            for parameter in group["params"]:
                slow = self.state.get(parameter, {}).get(_SLOW)
                if slow is not None:
                    slow.lerp_(parameter, group["lookahead_alpha"])
                    parameter.copy_(slow)
        return loss
