"""What LOMO and AdaLomo share: each parameter is updated inside the backward pass, as its gradient arrives.

Source: LOMO, arXiv 2306.09782, Algorithm 1 (fused gradient computation and parameter update).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from anyoptim.engines.engine import Engine, whole, wide
from anyoptim.errors import UnsupportedError


class BackwardUpdate(Engine):
    """An optimizer that updates a parameter when autograd has its gradient, and frees the gradient at once.

    ``loss.backward()`` trains; ``step()`` only updates what still holds a gradient. While
    ``accumulating`` is true the hooks leave gradients in place, so the micro-batches of gradient
    accumulation add up and the backward pass of the last one updates.

    The learning rate is read from ``param_groups``, so every scheduler works.

    Args:
        params: parameters or param groups, of any floating dtype; the arithmetic is at least fp32.
        defaults: hyperparameters of a group; ``clip_grad_value`` clamps each gradient element.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], defaults: dict[str, Any]) -> None:
        self.accumulating = False
        self._norms: list[Tensor] | None = None
        self._clip_factor: Tensor | None = None
        self._hooks: list[RemovableHandle] = []
        super().__init__(params, defaults)

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Apply one step to ``parameter``; ``gradient`` is in the dtype of :func:`wide` and may be overwritten."""
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

    def clip_grad_norm(self, loss: Tensor, max_norm: float) -> Tensor:
        """Measure the norm of all gradients in a backward pass of its own, so that the next one clips it.

        The first of LOMO's two passes (arXiv 2306.09782, section 3.3): ``clip_grad_norm(loss, 1.0)``,
        ``loss.backward()``, ``step()``. No gradient outlives its measurement, and nothing is updated.

        Args:
            loss: the loss; its graph is kept for the second pass.
            max_norm: the norm to clip at, until the next :meth:`step`.

        Returns:
            The norm before clipping, a 0-d fp32 tensor.

        Raises:
            UnsupportedError: gradients of earlier micro-batches are there, which a second pass would lose.
        """
        if any(each.grad is not None for group in self.param_groups for each in group["params"]):
            raise UnsupportedError(
                "clip_grad_norm takes two backward passes, so no gradients may be accumulated before; keep"
                " accumulating=True, then call torch.nn.utils.clip_grad_norm_ and step()."
            )
        self._norms = []
        try:
            torch.autograd.backward(loss, retain_graph=True)
            norm = torch.linalg.vector_norm(torch.stack(self._norms)) if self._norms else loss.new_zeros(())
        finally:
            self._norms = None
        self._clip_factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        return norm

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters that still hold a gradient, and end :meth:`clip_grad_norm`'s effect."""
        loss = super().step(closure)
        self._clip_factor = None
        return loss

    def update_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Update the parameters that still hold a gradient: none, after a backward pass that updated."""
        for parameter in parameters:
            self._consume(parameter, group)

    def _consume(self, parameter: Tensor, group: dict[str, Any]) -> None:
        if parameter.grad is None:
            return
        if parameter.grad.is_sparse:
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients.")
        gradient = parameter.grad.to(wide(parameter.dtype))
        parameter.grad = None
        if self._norms is not None:
            self._norms.append(whole(torch.linalg.vector_norm(gradient)))
            return
        if group["clip_grad_value"] is not None:
            gradient.clamp_(-group["clip_grad_value"], group["clip_grad_value"])
        if self._clip_factor is not None:
            gradient.mul_(self._clip_factor)
        self.update(parameter, gradient, group)


def _hook(optimizer: BackwardUpdate, group_index: int) -> Callable[[Tensor], None]:
    # weak, so that a dropped optimizer does not go on training the model beside its successor
    reference = weakref.ref(optimizer)

    @torch.no_grad()
    def hook(parameter: Tensor) -> None:
        owner = reference()
        if owner is not None and (owner._norms is not None or not owner.accumulating):
            owner._consume(parameter, owner.param_groups[group_index])

    return hook
