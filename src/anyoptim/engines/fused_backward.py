"""Fused backward: an optimizer that updates each parameter inside the backward pass, as its gradient arrives.

Source: LOMO, arXiv 2306.09782, Algorithm 1 (fused gradient computation and parameter update) and section 3.3
(clipping by the norm of all gradients in two passes).
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from anyoptim.engines.arithmetic import wide
from anyoptim.engines.backward_pass import BackwardStep, arrives_reduced, more_micro_batches, refuse_parts
from anyoptim.engines.composite import CompositeOptimizer
from anyoptim.engines.distributed import whole
from anyoptim.engines.facade import Facade
from anyoptim.engines.owned import Owned
from anyoptim.engines.stepping import after_step, before_step, evaluated, step_inside, step_part
from anyoptim.errors import UnsupportedError
from anyoptim.names.composing import MEMBER


class Mode(Enum):
    """What becomes of a gradient that autograd has just finished."""

    UPDATING = "it updates its parameter, and is gone"
    ACCUMULATING = "it stays, so that those of the next micro-batches add up to it"
    MEASURING = "its norm is taken, and it is gone"
    DETACHED = "no hook sees it: step() updates, as any optimizer's does"


class FusedBackward(Facade):
    """Runs an optimizer that updates parameters one by one inside the backward pass: ``loss.backward()`` trains.

    Gradients never pile up. Everything but the time of the update is the inner optimizer's: ``param_groups``,
    ``state``, ``defaults`` and the state dict are its own, so schedulers and checkpoints work, and what it computes
    is equal bit for bit.

    While ``accumulating`` is true gradients stay, so the micro-batches of gradient accumulation add up and the
    backward pass of the last one updates; accelerate says by itself which one that is. Where a gradient is still to be
    reduced over processes (DDP), it waits for :meth:`step`, which updates whatever holds one; FSDP2's gradients arrive
    reduced.

    Args:
        optimizer: updates a parameter from that parameter's gradient and state and its group's values alone; a step
            may change these values, each time in the same way, as a step count.
        waiting: names of those optimizers inside a :class:`CompositeOptimizer` that cannot; :meth:`step` lets each
            of them step as a whole.
    """

    def __init__(self, optimizer: Optimizer, waiting: Collection[str] = ()) -> None:
        super().__init__(optimizer)
        self._waiting = frozenset(waiting)
        self.mode = Mode.UPDATING
        self._step = BackwardStep()
        self._measured: list[Tensor] = []
        self._clip_factor: Tensor | None = None
        self._told = False
        self.before_update: Callable[[Optimizer, Tensor], None] | None = None
        """Told of each parameter whose gradient is about to be used, and of this optimizer."""
        # weak: FSDP2 frees the parameters that it replaces
        self._hooks: MutableMapping[Tensor, RemovableHandle] = WeakTensorKeyDictionary()
        self.attach()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_hooks": None, "before_update": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_hooks" in state:  # a copy, whose parameters have no hooks yet
            self._hooks = WeakTensorKeyDictionary()
            self.attach()

    @property
    def accumulating(self) -> bool:
        """Whether gradients stay, for the micro-batches that follow."""
        return self.mode is Mode.ACCUMULATING

    @accumulating.setter
    def accumulating(self, stays: bool) -> None:
        if self.mode is not Mode.DETACHED:
            self.mode = Mode.ACCUMULATING if stays else Mode.UPDATING

    def attach(self) -> None:
        """Hook the parameters that the groups hold now: FSDP2 replaces them after construction."""
        if self.mode is Mode.DETACHED:
            return
        for index, group in enumerate(self.param_groups):
            if self._waits(group):
                continue
            for parameter in group["params"]:
                if parameter.requires_grad and parameter not in self._hooks:
                    self._hooks[parameter] = parameter.register_post_accumulate_grad_hook(_hook(self, index))

    def remove(self) -> None:
        """Take the hooks off the parameters; from then on ``step()`` updates, as any optimizer's does."""
        for handle in self._hooks.values():
            handle.remove()
        self._hooks.clear()
        self.mode = Mode.DETACHED

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group and hook its parameters."""
        super().add_param_group(param_group)
        self.attach()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch has overloads
        """Update what still holds a gradient: nothing, after a backward pass that updated.

        Ends the effect of :meth:`clip_grad_norm`.

        Args:
            closure: computes the loss again and returns it.
        """
        loss = evaluated(closure)
        for owned in self._step.gathered:
            self._send(owned, rest=True)
        waiting = [
            (parameter, index)
            for index, group in enumerate(self.param_groups)
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if self._step.updated:
            self._update_rest(waiting)
            self._finish_step()
        elif waiting:
            for parameter, index in waiting:
                self._make_ready(parameter, self.param_groups[index])
            step_inside(self.optimizer)
            for parameter, _ in waiting:
                parameter.grad = None
        self._clip_factor = None
        if not torch.compiler.is_compiling():
            self.attach()
        return loss

    def clip_grad_norm(self, loss: Tensor, max_norm: float) -> Tensor:
        """Measure the norm of all gradients in a backward pass of its own, so that the next one clips it.

        The first of LOMO's two passes: ``clip_grad_norm(loss, 1.0)``, ``loss.backward()``, ``step()``. No gradient
        outlives its measurement, and nothing is updated.

        Args:
            loss: the loss; its graph is kept for the second pass.
            max_norm: the norm to clip at, until the next :meth:`step`.

        Returns:
            The norm before clipping, a 0-d tensor of at least fp32.

        Raises:
            UnsupportedError: gradients of earlier micro-batches are there, which a second pass would lose, or
                gradients are still to be reduced over processes.
        """
        if any(each.grad is not None or not arrives_reduced(each) for each in self._parameters()):
            raise UnsupportedError(
                "clip_grad_norm takes two backward passes, so no gradients may be accumulated before, nor wait to be"
                " reduced by DDP; keep accumulating=True, then call torch.nn.utils.clip_grad_norm_ and step()."
            )
        before, self.mode = self.mode, Mode.MEASURING
        try:
            torch.autograd.backward(loss, retain_graph=True)
            for group in filter(self._waits, self.param_groups):
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._measure(parameter)
            norms = self._measured
            norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else loss.new_zeros(())
        finally:
            self.mode, self._measured = before, []
        self._clip_factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        return norm

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    def _arrived(self, parameter: Tensor, group_index: int) -> None:
        """Use a gradient that autograd has just finished, as the mode says."""
        if self.mode is Mode.MEASURING:
            self._measure(parameter)
        elif self.mode is Mode.UPDATING and arrives_reduced(parameter) and not more_micro_batches():
            if parameter in self._step.updated:
                refuse_parts()
                self._begin_again()
            self._update(parameter, group_index)

    def _begin_again(self) -> None:
        """Take a second backward pass as a step of its own, and say once that nobody called ``step()``."""
        if not self._told:
            self._told = True
            warnings.warn(
                "Two backward passes came before one step(), and each has updated the weights: call step() after each,"
                " or set accumulating=True on the optimizer before all but the last one of a step.",
                stacklevel=2,
            )
        self._finish_step()

    def _measure(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._measured.append(whole(torch.linalg.vector_norm(parameter.grad, dtype=wide(parameter.grad.dtype))))
        parameter.grad = None

    def _update(self, parameter: Tensor, group_index: int) -> None:
        group = self.param_groups[group_index]
        if not self._step.updated and isinstance(self.optimizer, CompositeOptimizer):
            before_step(self.optimizer, (self.optimizer,))  # of the others each part runs them
        optimizer = self._owner(group)
        if isinstance(optimizer, Owned):
            if self._step.gather(optimizer, parameter, group_index):
                self._send(optimizer)
            return
        self._make_ready(parameter, group)
        after = step_part(optimizer, group, [parameter])
        if after:
            self._step.groups_after[group_index] = after
        parameter.grad = None
        self._step.updated.add(parameter)

    def _send(self, optimizer: Owned, *, rest: bool = False) -> None:
        """Let owners step on what is gathered; with ``rest`` also on what only other processes have a gradient of."""
        gathered, self._step.gathered[optimizer] = self._step.gathered[optimizer], {}
        if rest:
            gathered = {
                parameter: index
                for index, group in enumerate(self.param_groups)
                for parameter in group["params"]
                if self._owner(group) is optimizer and parameter not in self._step.updated
            }
        for parameter, index in gathered.items():
            self._make_ready(parameter, self.param_groups[index])
        after = optimizer.step_parts([(self.param_groups[index], each) for each, index in gathered.items()])
        changed = {id(optimizer.param_groups[index]): values for index, values in after.items()}
        for index, group in enumerate(self.param_groups):
            if id(group) in changed:
                self._step.groups_after[index] = changed[id(group)]
        for parameter in gathered:
            parameter.grad = None
        self._step.updated.update(gathered)
        self._step.sent[optimizer] = self._step.sent.get(optimizer, 0) + len(gathered)

    def _update_rest(self, waiting: Sequence[tuple[Tensor, int]]) -> None:
        """Update what the backward pass has left, and let the optimizers that cannot update in it step."""
        wholes: dict[Optimizer, list[Tensor]] = {}
        for parameter, index in waiting:
            group = self.param_groups[index]
            if self._waits(group):
                self._make_ready(parameter, group)
                wholes.setdefault(self._owner(group), []).append(parameter)
            else:
                self._update(parameter, index)
        for optimizer, parameters in wholes.items():
            step_inside(optimizer)
            for parameter in parameters:
                parameter.grad = None

    def _waits(self, group: Mapping[str, Any]) -> bool:
        return group.get(MEMBER) in self._waiting

    def _owner(self, group: Mapping[str, Any]) -> Optimizer:
        return self.optimizer.owner(group) if isinstance(self.optimizer, CompositeOptimizer) else self.optimizer

    def _finish_step(self) -> None:
        """Let the groups' own values advance, such as a step count: once a step, whatever the number of parameters."""
        for index, after in self._step.groups_after.items():
            self.param_groups[index].update(after)
        if isinstance(self.optimizer, CompositeOptimizer):
            after_step(self.optimizer, (self.optimizer,), {})
        self._step = BackwardStep()

    def _make_ready(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Clip a gradient that is about to be used, and tell who watches."""
        if self._clip_factor is not None and parameter.grad is not None:
            largest = group.get("clip_grad_value")
            if largest is not None:  # lomo_optim clamps elements before it scales them
                parameter.grad.clamp_(-largest, largest)
            parameter.grad.mul_(self._clip_factor)
        if self.before_update is not None:
            self.before_update(self, parameter)


def _hook(facade: FusedBackward, group_index: int) -> Callable[[Tensor], None]:
    # weak, so that a dropped optimizer does not go on training the model beside its successor
    reference = weakref.ref(facade)

    @torch.no_grad()
    def hook(parameter: Tensor) -> None:
        owner = reference()
        if owner is not None:
            owner._arrived(parameter, group_index)

    return hook
