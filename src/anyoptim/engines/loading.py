"""State dicts through the hooks that torch lets anybody register, for optimizers that load in a way of their own."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer


def before_loading(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Run the hooks for what is about to be loaded, and return what they make of it.

    Args:
        optimizer: whose hooks.
        state_dict: stays as it is; its values are shared.
    """
    state_dict = dict(state_dict)
    for hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        changed = hook(optimizer, state_dict)
        state_dict = state_dict if changed is None else changed
    return state_dict


def after_loading(optimizer: Optimizer) -> None:
    """Run the hooks that follow."""
    for hook in optimizer._optimizer_load_state_dict_post_hooks.values():
        hook(optimizer)
