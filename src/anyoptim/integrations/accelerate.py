"""accelerate's loops, with or without ``enable()``: what a backward pass that updates changes for them.

- ``Accelerator.backward`` drops the ``learning_rate`` that the Trainer passes for ``lomo`` and ``adalomo`` unless a
  lomo_optim object is there, records itself for optimizers of second order, hooks the parameters that FSDP2 has put in
  the place of others, and refuses a loss that is scaled where nobody could unscale the gradients;
- ``Accelerator.clip_grad_norm_`` and ``clip_grad_value_`` say so when there are no gradients left to clip;
- ``Accelerator.prepare`` leaves no state of parameters that FSDP2 has replaced (torch's Adagrad makes its state in
  the constructor, and no checkpoint could be saved).

Which micro-batch is the last of a step, :class:`FusedBackward` reads from accelerate itself.
"""

from __future__ import annotations

import functools
import math
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch.optim import Optimizer

from anyoptim.building.assemble import on_construct
from anyoptim.building.records import built, forget_other_parameters, record_of
from anyoptim.engines.closure import WithClosure
from anyoptim.engines.fused_backward import FusedBackward, Mode
from anyoptim.errors import UnsupportedError
from anyoptim.integrations.patching import replace

_wrapped: list[ExitStack] = []
"""What undoes it: nothing does where a loop without ``enable()`` needed it."""


def wrap_accelerator(undo: ExitStack) -> None:
    """Wrap what an ``Accelerator`` does with an optimizer, unless it is wrapped already."""
    from accelerate import Accelerator

    if _wrapped:
        return
    _wrapped.append(undo)
    undo.callback(_wrapped.clear)
    original: Callable[..., Any] = Accelerator.backward

    @functools.wraps(original)
    def backward(self: Any, loss: Any, **kwargs: Any) -> Any:
        if not self.has_lomo_optimizer:
            kwargs.pop("learning_rate", None)
        for prepared in self._optimizers:
            record = record_of(prepared)
            if record is None:
                continue
            if self.scaler is not None and self.scaler.is_enabled():
                _refuse_scaled_loss(prepared.optimizer, record.writer.name, second_order=record.traits.second_order)
            if record.traits.second_order:
                kwargs["create_graph"] = True
            if isinstance(prepared.optimizer, FusedBackward):
                prepared.optimizer.attach()
        return original(self, loss, **kwargs)

    replace(undo, Accelerator, "backward", backward)
    _wrap_clipping(undo, Accelerator, "clip_grad_norm_")
    _wrap_clipping(undo, Accelerator, "clip_grad_value_")

    prepare: Callable[..., Any] = Accelerator.prepare

    @functools.wraps(prepare)
    def prepare_without_leftovers(self: Any, *args: Any, **kwargs: Any) -> Any:
        prepared = prepare(self, *args, **kwargs)
        for each in self._optimizers:
            optimizer = built(each)
            if optimizer is not None:
                forget_other_parameters(optimizer)
        return prepared

    replace(undo, Accelerator, "prepare", prepare_without_leftovers)


def _wrap_clipping(undo: ExitStack, accelerator: Any, name: str) -> None:
    original: Callable[..., Any] = getattr(accelerator, name)

    @functools.wraps(original)
    def clip(self: Any, parameters: Any, largest: float, *args: Any, **kwargs: Any) -> Any:
        parameters = list(parameters)
        gone = largest < math.inf and all(each.grad is None for each in parameters)  # the Trainer measures with inf
        if gone and any(_updates_in_backward(prepared.optimizer) for prepared in self._optimizers):
            warnings.warn(
                f"{name} has no effect: the backward pass has used the gradients already. Leave it out (in the Trainer"
                " max_grad_norm=0), or set fused_backward=false in optim_args.",
                stacklevel=3,
            )
        return original(self, parameters, largest, *args, **kwargs)

    replace(undo, accelerator, name, clip)


def _updates_in_backward(optimizer: Optimizer) -> bool:
    return isinstance(optimizer, FusedBackward) and optimizer.mode is not Mode.DETACHED


def _refuse_scaled_loss(optimizer: Optimizer, name: str, *, second_order: bool) -> None:
    cases = {
        "updates inside the backward pass": _updates_in_backward(optimizer),
        "evaluates the loss inside its step": isinstance(optimizer, WithClosure),
        "differentiates gradients": second_order,
    }
    for what, does in cases.items():
        if does:
            raise UnsupportedError(
                f"{name} {what}, where fp16 gradients are still scaled; take mixed_precision='bf16' in accelerate's"
                " configuration, or bf16=True in TrainingArguments."
            )


def _wrap_for(optimizer: Optimizer) -> None:
    """Wrap accelerate for a loop of one's own, as soon as there is an optimizer that it would train wrongly."""
    record = record_of(optimizer)
    needs = isinstance(optimizer, (FusedBackward, WithClosure)) or (record is not None and record.traits.second_order)
    if needs and "accelerate" in sys.modules:
        wrap_accelerator(ExitStack())


on_construct.append(_wrap_for)
