"""What steps do to the weights, measured now and then: sums that stay on the device until somebody asks."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from anyoptim.engines.distributed import whole
from anyoptim.engines.fused_backward import FusedBackward
from anyoptim.engines.monitor_sums import Before, Part, parts
from anyoptim.engines.readings import Label, Reading, Row, Sums
from anyoptim.engines.samples import gradient_of, norm
from anyoptim.engines.wrapper import rate

EVERY = 10
"""A step out of so many is measured in a loop, and the first one."""


@dataclass(frozen=True)
class _Step:
    """A measured step of which nothing has been read.

    Args:
        reading: without its rows.
        labels: of all parameters.
        rates: that were applied to them.
        parts: the sums.
        overflow: a scaler's word on whether nothing was stepped.
    """

    reading: Reading
    labels: Sequence[Label]
    rates: Sequence[Any]
    parts: Sequence[Part]
    overflow: Tensor | None

    def sums(self) -> dict[int, Sums]:
        """Wait for the device and return what was measured of each parameter that was stepped, by its place."""
        read = (each for part in self.parts for each in part.read())
        return {place: sums for place, sums in read if sums.elements}

    def read(self, first: Mapping[int, Sums]) -> Reading | None:
        """Wait for the device and return the numbers; ``None`` of a step that did not happen."""
        if self.overflow is not None and bool(whole(self.overflow)):
            return None
        found = self.sums()
        rows = [
            Row.of(label, found[place], None if lr is None else float(lr), first.get(place))
            for place, (label, lr) in enumerate(zip(self.labels, self.rates, strict=True))
            if place in found
        ]
        return replace(self.reading, rows=rows)


class Monitor:
    """Measures the steps of an optimizer: how far weights move, by role and by layer.

    A step is measured through samples of its weights before and after, out of hooks of the optimizer. Nothing is
    measured in between, and no value is read from a device before :meth:`read`. Where processes share parameters,
    their sums are added up as the step ends, so that one process alone may ask.

    A copy of an optimizer has no hooks, so a monitor is copied, and pickled, as ``None``.

    Args:
        labels: of the parameters, group by group.
        advise: what is to be said of a reading, of which each sentence is a warning.
    """

    def __init__(
        self,
        labels: Sequence[Sequence[Label]],
        *,
        advise: Callable[[Reading], Sequence[str]] | None = None,
    ) -> None:
        self.every = EVERY
        """Which steps are measured, where nobody who logs says it: one out of so many."""
        self._due: Callable[[int], bool] | None = None
        self._labels = labels
        self._advise = advise
        self._steps = 0
        self._before: dict[Tensor, Before] = {}
        self._unread: deque[_Step] = deque(maxlen=2)
        """The last measured step, and the one before while a scaler may have left out the last."""
        self._first: _Step | None = None
        self._first_sums: dict[int, Sums] | None = None
        self._reading: Reading | None = None
        self._told = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def attach(self, optimizer: Optimizer) -> None:
        """Measure an optimizer's steps from now on."""
        optimizer.register_step_pre_hook(self._step_begins)
        optimizer.register_step_post_hook(self._step_ends)
        if isinstance(optimizer, FusedBackward):
            optimizer.before_update = self._take

    # ------------------------------------------------------------ what is asked

    def reading(self) -> Reading | None:
        """Return the last step that was measured, in full; ``None`` before there is one."""
        if self._first_sums is None and self._first is not None:
            self._first_sums = self._first.sums()
        found = None
        while self._unread and found is None:
            found = self._unread.pop().read(self._first_sums or {})
        self._unread.clear()
        if found is not None:
            self._reading = found
            for sentence in self._advise(found) if self._advise else ():
                warnings.warn(sentence, stacklevel=3)
        return self._reading

    def read(self) -> dict[str, float]:
        """Return the numbers of the last step that was measured, by the keys of the Trainer's logs."""
        found = self.reading()
        return {} if found is None else found.flat()

    def news(self) -> dict[str, float]:
        """Return the numbers of a step that was measured since the last call; nothing where there is none."""
        found = self.reading()
        if found is None or found.step == self._told:
            return {}
        self._told = found.step
        return found.flat()

    # ------------------------------------------------------------ what is measured

    def follow(self, due: Callable[[int], bool]) -> None:
        """Measure the steps that somebody is going to log.

        Args:
            due: whether a step is; its number is counted from here on, the first is 1.
        """
        done = self._steps
        self._due = lambda step: due(step - done)

    @property
    def _measures(self) -> bool:
        step = self._steps + 1
        if self._first is None:  # what comes later is held against it
            return True
        return step % self.every == 0 if self._due is None else self._due(step)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch's
    def _step_begins(self, optimizer: Optimizer, *__: Any) -> None:
        if isinstance(optimizer, FusedBackward):  # which tells of each parameter
            return
        self._before.clear()
        if self._measures:
            for _, _, parameter in _trainable(optimizer):
                self._take(optimizer, parameter)

    @torch.no_grad()
    def _take(self, optimizer: Optimizer, parameter: Tensor) -> None:
        """Look at a parameter that is about to be updated."""
        if not self._measures or parameter in self._before:
            return
        self._before[parameter] = Before.of(optimizer, parameter)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch's
    @torch.no_grad()
    def _step_ends(self, optimizer: Optimizer, *_: Any) -> None:
        if self._measures:
            step = self._measured(optimizer)
            self._first = self._first or step
            if step.overflow is None:
                self._unread.clear()
            self._unread.append(step)
        self._before.clear()
        self._steps += 1

    def _measured(self, optimizer: Optimizer) -> _Step:
        scaler = vars(optimizer)  # what one leaves there for an optimizer that unscales by itself
        every = list(_trainable(optimizer))
        labels = [self._label(group, at) for group, at, _ in every]
        groups = optimizer.param_groups
        return _Step(
            Reading(self._steps + 1, (), _at_peak(groups), any("d" in each for each in groups)),
            labels,
            [_rate_of(groups[group], label.rate) for (group, _, _), label in zip(every, labels, strict=True)],
            parts(optimizer, [(each, self._seen(each)) for _, _, each in every], scaler.get("grad_scale")),
            scaler.get("found_inf"),
        )

    def _label(self, group: int, at: int) -> Label:
        known = group < len(self._labels) and at < len(self._labels[group])
        return self._labels[group][at] if known else Label()  # of a group that was added later

    def _seen(self, parameter: Tensor) -> Before | None:
        """Return what was taken of a parameter that had a gradient, by now at least: a closure makes one."""
        before = self._before.get(parameter)
        if before is None or before.norm is not None:
            return before
        gradient = gradient_of(parameter)
        return None if gradient is None else before._replace(norm=norm(gradient))


def _trainable(optimizer: Optimizer) -> Iterator[tuple[int, int, Tensor]]:
    """Yield the parameters that are trained, each with its group and its place there."""
    for index, group in enumerate(optimizer.param_groups):
        for at, parameter in enumerate(group["params"]):
            if parameter.requires_grad:
                yield index, at, parameter


def _rate_of(group: dict[str, Any], key: str) -> Any:
    """Return the learning rate that a step has applied to a group, as it is now; ``None`` where there is none."""
    if group.get(key, group.get("lr")) is None:
        return None
    found = rate({**group, "lr": group.get(key, group.get("lr"))})
    return found.clone() if isinstance(found, Tensor) else found


def _at_peak(groups: Sequence[dict[str, Any]]) -> float:
    """Return the largest rate in units of the one that a schedule scales; 1 where there is none, or it is not known."""
    ratios = [
        group["lr"] / group["initial_lr"]
        for group in groups
        if isinstance(group.get("lr"), (int, float)) and isinstance(group.get("initial_lr"), (int, float))
        if group["initial_lr"]
    ]
    return max(ratios, default=1.0)
