"""What lies in memory between steps, by a blueprint's settings: the facade for it, and what cannot have one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from anyoptim.arguments.settings import Settings
from anyoptim.building.blueprint import Blueprint
from anyoptim.engines.composite import inside
from anyoptim.engines.distributed import local
from anyoptim.engines.fused_forms import FORMS
from anyoptim.engines.layout import as_rows, as_shard
from anyoptim.engines.offloading import place_of
from anyoptim.engines.ownership import BATCH_BYTES
from anyoptim.engines.packed_state import Storage, is_held_as, lies_by_rows, restored
from anyoptim.engines.stored import Stored
from anyoptim.names.spec import Implementation

_KEEPS_WHAT_IS_LOST = {"kahan_sum": False, "use_kahan_summation": False, "bf16_stochastic_round": False}
"""Keywords of packages that keep what rounding loses by themselves, and the value with which they do not."""


def is_stored(settings: Settings) -> bool:
    """Whether weights or state are held in another way than the optimizer's own between steps."""
    held = (settings.get("master_weights", "own"), settings.get("state_dtype", "own"), settings.get("offload", "none"))
    return held != ("own", "own", "none")


def keeps_what_is_lost(settings: Settings) -> bool:
    """Whether an update too small for weights in 16 bits is kept, by what lies behind them or by the package itself."""
    by_itself = any(name in settings.values and settings[name] is not off for name, off in _KEEPS_WHAT_IS_LOST.items())
    return by_itself or settings.get("master_weights", "own") != "own"


def mend_of_lost_updates(settings: Settings) -> str:
    """Return what to do where they are lost."""
    if "master_weights" in settings.values:
        return "set master_weights=24bit in optim_args"
    return "load the model in float32 and set bf16=True"


def stored(
    optimizer: Optimizer,
    blueprint: Blueprint,
    implementations: Sequence[Implementation],
    *,
    elementwise: bool,
    trial: bool,
) -> Optimizer:
    """Return an optimizer with the facade that holds its weights and state as a blueprint says, if it says so.

    Args:
        optimizer: built of the blueprint.
        blueprint: what was decided.
        implementations: what is in it: one, or of a hybrid in a wrapper both, and the wrappers.
        elementwise: it updates each element by itself.
        trial: it steps once to see what state it makes, so nothing lies elsewhere, nor is cut.
    """
    if not is_stored(blueprint.settings):
        return optimizer
    settings = blueprint.settings
    form = implementations[0].fused_form if len(implementations) == 1 else ""  # not of what a wrapper makes of it
    storage = Storage(
        str(settings.get("master_weights", "own")),
        str(settings.get("state_dtype", "own")),
        frozenset[str]().union(*(each.weights_in_state for each in implementations)),
        frozenset[str]().union(*(each.exact_state for each in implementations)),
        FORMS[form].signs if form else (),
    )
    where = "none" if trial else str(settings.get("offload", "none"))
    place = place_of(where, str(settings.get("offload_dir") or ""))
    bound = float("inf") if trial else BATCH_BYTES
    compiled = bool(settings.get("compiled_step")) and not trial
    return Stored(optimizer, storage, place, elementwise=elementwise, bound=bound, form=form, compiled=compiled)


def held_as_here(optimizer: Optimizer, state_dict: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return loaded state that was held in other ways between steps as it is held here; ``None`` if it is already.

    Args:
        optimizer: any, which is about to load it.
        state_dict: stays as it is.
        name: of its spec, for what is said.
    """
    storages = {
        parameter: stored.storage
        for stored in inside(optimizer, Stored)
        for group in stored.param_groups
        for parameter in group["params"]
    }
    keys = [key for group in state_dict.get("param_groups", ()) for key in group["params"]]
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = dict(state_dict.get("state", {}))
    changed = False
    for number, (key, parameter) in enumerate(zip(keys, every, strict=False)):
        held, storage = state.get(key), storages.get(parameter, Storage())
        if isinstance(held, Mapping) and not is_held_as(_parts(held), storage, local(parameter.detach())):
            state[key] = _restored(held, storage, parameter, number)
            changed = True
    if not changed:
        return None
    here = next(iter(storages.values()), Storage())
    warnings.warn(
        f"{name}: the state that is loaded was held in another way between steps; it goes on with"
        f" master_weights={here.master_weights} and state_dtype={here.state_dtype}.",
        stacklevel=6,
    )
    return {**state_dict, "state": state}


def _restored(held: Mapping[str, Any], storage: Storage, parameter: Tensor, number: int) -> dict[str, Any]:
    """Return the state of a parameter as it is held here; on a device mesh each process's part of it."""
    if not isinstance(parameter, DTensor):
        return restored(held, storage, parameter.detach(), number)
    part = local(parameter.detach())
    return {
        key: as_rows(value, parameter)
        if lies_by_rows(key)
        else as_shard(value, parameter)
        if isinstance(value, Tensor) and value.dim() and value.shape == part.shape
        else held.get(key, value)
        for key, value in restored(_parts(held), storage, part, number).items()
    }


def _parts(held: Mapping[str, Any]) -> dict[str, Any]:
    """Return this process's part of a parameter's state."""
    return {key: local(value) if isinstance(value, Tensor) else value for key, value in held.items()}
