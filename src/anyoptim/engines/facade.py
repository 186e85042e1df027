"""What stands around one optimizer and is one itself: the base of fused backward, closures and wrappers."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer


class Facade(Optimizer):
    """A ``torch.optim.Optimizer`` around another one, whose groups, state and defaults it has.

    Schedulers, accelerate and checkpoints see the very dicts that the inner optimizer uses. State dicts are the inner
    optimizer's; hooks for them that are registered here run here.

    Args:
        optimizer: the one inside.
    """

    optimizer: Optimizer

    def __init__(self, optimizer: Optimizer) -> None:
        # as unpickling does: hooks and profiling of a torch optimizer, without groups of our own
        self.__setstate__({"optimizer": optimizer})

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":  # not there yet
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the inner optimizer."""
        self.optimizer.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state dict, which holds the state of this one, too."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict = self.optimizer.state_dict()
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, state_dict)
            state_dict = state_dict if changed is None else changed
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict into the inner optimizer."""
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state_dict)
            state_dict = state_dict if changed is None else changed
        self.optimizer.load_state_dict(state_dict)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)
