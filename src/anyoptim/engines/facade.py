"""What stands around one optimizer and is one itself: the base of fused backward, closures and wrappers."""

from __future__ import annotations

from typing import Any, ClassVar

from torch.optim import Optimizer

from anyoptim.engines.copies import copy_whole, kept_attributes
from anyoptim.engines.loading import after_loading, before_loading, between_hooks
from anyoptim.engines.stepping import HoldsOptimizers, take_back, take_back_attributes, twin_of
from anyoptim.errors import UnsupportedError


def not_around_parameters(kind: type[Optimizer]) -> UnsupportedError:
    """Return the refusal of parameters in the place of optimizers, which ``ZeroRedundancyOptimizer`` passes."""
    return UnsupportedError(
        f"{kind.__name__} goes around optimizers, so ZeroRedundancyOptimizer, which gives each rank some of the"
        " parameters, cannot build one: shard the model with FSDP2's fully_shard instead, or pass a class that takes"
        " parameters, such as torch.optim.AdamW."
    )


class Facade(HoldsOptimizers):
    """A ``torch.optim.Optimizer`` around another one, whose groups, state and defaults it has.

    Schedulers, accelerate and checkpoints see the very dicts that the inner optimizer uses. State dicts are the inner
    optimizer's; hooks for them that are registered here run here.

    Args:
        optimizer: the one inside.

    Raises:
        UnsupportedError: it is none, but parameters.
    """

    optimizer: Optimizer
    _step_supports_amp_scaling: ClassVar[bool] = False
    """A scaler hands the scale to the object whose step it calls, so the one inside never sees it."""

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise not_around_parameters(type(self))
        copy_whole(optimizer)
        # as unpickling does: hooks and profiling of a torch optimizer, without groups of our own
        self.__setstate__({"optimizer": optimizer})

    # properties, since torch.compile takes what __getattr__ returns for another object than the inner optimizer's own
    @property
    def state(self) -> Any:
        """The inner optimizer's state."""
        return self.optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.optimizer.state = state

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The inner optimizer's groups."""
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.optimizer.param_groups = groups

    @property
    def defaults(self) -> dict[str, Any]:
        """The inner optimizer's defaults."""
        return self.optimizer.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.optimizer.defaults = defaults

    def __getattr__(self, name: str) -> Any:
        # before there is one inside; and how the one inside is copied is not how this one is
        if name == "optimizer" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __getstate__(self) -> dict[str, Any]:
        return kept_attributes(self)

    def twin(self, groups: list[dict[str, Any]], state: Any) -> Optimizer:
        """Return the same facade around a twin; see :func:`anyoptim.engines.stepping.twin_of`."""
        twin: Optimizer = object.__new__(type(self))
        vars(twin).update({**vars(self), "optimizer": twin_of(self.optimizer, groups, state)})
        return twin

    def take_back(self, twin: Any) -> None:
        """Keep what a twin has put into attributes; see :func:`anyoptim.engines.stepping.take_back`."""
        take_back_attributes(self, twin, "optimizer")
        take_back(self.optimizer, twin.optimizer)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the inner optimizer."""
        self.optimizer.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state dict, which holds the state of this one, too."""
        return between_hooks(self, lambda: self.to_save(self.optimizer.state_dict()))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict into the inner optimizer."""
        self.load(before_loading(self, state_dict))
        after_loading(self)

    def to_save(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return what is saved of the inner optimizer's state dict."""
        return state_dict

    def load(self, state_dict: dict[str, Any]) -> None:
        """Load what the hooks of this facade have made of a state dict."""
        self.optimizer.load_state_dict(state_dict)
