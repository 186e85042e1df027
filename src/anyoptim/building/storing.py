"""What lies in memory between steps, by a blueprint's settings: the facade for it, and what cannot have one."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer

from anyoptim.building.blueprint import Blueprint
from anyoptim.engines.compiled_pass import CompiledPass
from anyoptim.engines.offloading import place_of
from anyoptim.engines.ownership import BATCH_BYTES
from anyoptim.engines.packed_state import Storage
from anyoptim.engines.stored import Stored
from anyoptim.names.spec import Implementation


def is_stored(blueprint: Blueprint) -> bool:
    """Whether weights or state are held in another way than the optimizer's own between steps."""
    settings = blueprint.settings
    held = (settings.get("master_weights", "own"), settings.get("state_dtype", "own"), settings.get("offload", "none"))
    return held != ("own", "own", "none")


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
    if not is_stored(blueprint):
        return optimizer
    settings = blueprint.settings
    storage = Storage(
        str(settings.get("master_weights", "own")),
        str(settings.get("state_dtype", "own")),
        frozenset[str]().union(*(each.weights_in_state for each in implementations)),
        frozenset[str]().union(*(each.exact_state for each in implementations)),
    )
    where = "none" if trial else str(settings.get("offload", "none"))
    place = place_of(where, str(settings.get("offload_dir", "")))
    bound = float("inf") if trial else BATCH_BYTES
    form = implementations[0].fused_form if len(implementations) == 1 else ""  # not of what a wrapper makes of it
    compiled = CompiledPass(form, storage) if form and settings.get("compiled_step") else None
    return Stored(optimizer, storage, place, elementwise=elementwise, bound=bound, compiled=compiled)
