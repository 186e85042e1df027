"""The base of optimizers around another optimizer, whichever it is: Lookahead, OrthoGrad, Cautious, schedule-free, SAM.

Their state lies beside the inner optimizer's, in its state and groups, so that one state dict holds both.

The packages' own wrappers are no full optimizers (no hooks, state dicts of another shape, groups that nobody shares),
so schedulers, accelerate and checkpoints break on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from anyoptim.engines.composite import inside
from anyoptim.engines.facade import Facade
from anyoptim.engines.owned import Owned
from anyoptim.engines.ranges import refuse_out_of_range


class Wrapper(Facade):
    """A facade that changes what a step does, by settings that each group has beside the inner optimizer's.

    Args:
        optimizer: the one inside.
        settings: by their names; a group has them with the wrapper's name before theirs.
    """

    name: ClassVar[str]
    state_keys: ClassVar[frozenset[str]] = frozenset()
    """What it keeps in a parameter's state, beside what the inner optimizer keeps there."""

    def __init__(self, optimizer: Optimizer, **settings: object) -> None:
        refuse_out_of_range(type(self), settings)
        super().__init__(optimizer)
        for each in inside(optimizer, Owned):
            each.outside |= self.state_keys
        self._settings = {f"{self.name}_{key}": value for key, value in settings.items()}
        self._complete()

    def _complete(self) -> None:
        """Give a group what it lacks, such as one that an earlier version has saved."""
        for group in self.param_groups:
            for key, value in self._settings.items():
                group.setdefault(key, value)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the inner optimizer, with settings of its own where it has some."""
        super().add_param_group(param_group)
        self._complete()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict into the inner optimizer."""
        super().load_state_dict(state_dict)
        self._complete()

    def starts(self, key: str) -> bool:
        """Whether a parameter with a gradient has nothing of the wrapper's own, kept under ``key``, in its state yet.

        A step that starts is not to be compiled: torch.compile lets many an inner optimizer make its state behind the
        graph's back (``_init_group``), and what the graph knows of the state would overwrite it.
        """
        return any(key not in self.state.get(parameter, {}) for _, parameter in self.with_gradients())

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch's
    def step_uncompiled(self, closure: Callable[[], float] | None) -> float | None:
        """Step as if nothing was compiled."""
        return type(self).step.__wrapped__(self, closure)  # type: ignore[attr-defined,no-any-return]  # torch's hooks

    def with_gradients(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Yield the parameters that have a gradient, each with its group."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    yield group, parameter


def real(tensor: Tensor) -> Tensor:
    """Return a complex tensor as pairs of real numbers, in the same memory; any other as it is."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def rate(group: Mapping[str, Any]) -> Any:
    """Return the learning rate that a step takes: the packages of D-Adaptation estimate one, ``d``, in units of lr."""
    return group["lr"] * group.get("d", 1.0)
