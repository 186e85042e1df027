"""What LOMO and AdaLomo share: each parameter is updated inside the backward pass, as its gradient arrives.

Source: LOMO, arXiv 2306.09782, Algorithm 1 (fused gradient computation and parameter update).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


class BackwardUpdate(Optimizer):
    """An optimizer that updates a parameter when autograd has its gradient, and frees the gradient at once.

    ``loss.backward()`` trains; ``step()`` only updates what still holds a gradient. While
    ``accumulating`` is true the hooks leave gradients in place, so the micro-batches of gradient
    accumulation add up and the backward pass of the last one updates.

    The learning rate is read from ``param_groups``, so every scheduler works.

    Args:
        params: parameters or param groups, of any floating dtype; the arithmetic is fp32.
        defaults: hyperparameters of a group; ``clip_grad_value`` clamps each gradient element.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], defaults: dict[str, Any]) -> None:
        self.accumulating = False
        self._hooks: list[RemovableHandle] = []
        super().__init__(params, defaults)

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Apply one step to ``parameter``; ``gradient`` is fp32, of its shape, and may be overwritten."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group and hook its parameters."""
        super().add_param_group(param_group)
        index = len(self.param_groups) - 1
        for parameter in self.param_groups[index]["params"]:
            if parameter.requires_grad:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(_hook(self, index)))

    def remove(self) -> None:
        """Take the hooks off the parameters; from then on ``step()`` updates, as any optimizer's does."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters that still hold a gradient: none, after a backward pass that updated."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                self._consume(parameter, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load state as it was saved, in its own dtype."""
        # torch casts state to the parameter's dtype, which would round the fp32 state of bf16 weights
        super().load_state_dict(state_dict)
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        live = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, parameter in zip(saved, live, strict=True):
            for key, value in state_dict["state"].get(index, {}).items():
                self.state[parameter][key] = value.to(parameter.device, copy=True)

    def _consume(self, parameter: Tensor, group: dict[str, Any]) -> None:
        if parameter.grad is None:
            return
        if parameter.grad.is_sparse:
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients.")
        gradient = parameter.grad.float()
        parameter.grad = None
        if group["clip_grad_value"] is not None:
            gradient = gradient.clamp(-group["clip_grad_value"], group["clip_grad_value"])
        self.update(parameter, gradient, group)


def _hook(optimizer: BackwardUpdate, group_index: int) -> Callable[[Tensor], None]:
    # weak, so that a dropped optimizer does not go on training the model beside its successor
    reference = weakref.ref(optimizer)

    @torch.no_grad()
    def hook(parameter: Tensor) -> None:
        owner = reference()
        if owner is not None and not owner.accumulating:
            owner._consume(parameter, owner.param_groups[group_index])

    return hook
