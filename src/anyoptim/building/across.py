"""How an optimizer steps where several processes share the parameters: which facade lets it, if it needs one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from anyoptim.arguments.fields import Fields
from anyoptim.building.blueprint import Blueprint
from anyoptim.building.storing import is_stored
from anyoptim.engines.local_shards import LocalShards
from anyoptim.engines.owned import Owned
from anyoptim.names.spec import Across, Implementation
from anyoptim.routing.routes import Routing

_OF_AN_ELEMENT = frozenset({"lr", "betas", "eps", "weight_decay", "momentum", "foreach", "fused"})
"""What an element-wise optimizer may be set to and still be one; other settings may bring norms or blocks."""


def is_sharded(fields: Fields, routing: Routing | None) -> bool:
    """Whether FSDP2 shards the parameters already, or will do so when accelerate prepares the model."""
    held = routing is not None and any(isinstance(each.parameter, DTensor) for each in routing.routes)
    return held or bool(fields.get("fsdp")) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def across(implementation: Implementation, given: Mapping[str, object], *, sharded: bool, owned: bool) -> Across:
    """Return how an optimizer steps on parameters that processes share.

    Args:
        implementation: what is known of it.
        given: the keywords of its constructor.
        sharded: parameters are sharded.
        owned: replicas have owners, too.
    """
    if owned and not implementation.waits_for_step:
        return "owned"
    if not sharded or implementation.across != "local":
        return implementation.across if sharded else ""
    return "local" if is_elementwise(implementation, given) else "owned"


def is_elementwise(implementation: Implementation, given: Mapping[str, object]) -> bool:
    """Whether an optimizer updates each element by itself, set as it is.

    Args:
        implementation: what is known of it.
        given: the keywords of its constructor.
    """
    default = {each.keyword: each.default for each in implementation.hyperparameters}
    changed = {key for key, value in given.items() if key not in _OF_AN_ELEMENT and value != default.get(key)}
    return (implementation.elementwise or implementation.across == "local") and not changed


def way_across(
    blueprint: Blueprint, implementation: Implementation, given: Mapping[str, object], *, sharded: bool = False
) -> Across:
    """Return how an optimizer of a blueprint steps on parameters that processes share.

    Args:
        blueprint: what was decided.
        implementation: of the only optimizer, or of one of a hybrid's.
        given: the keywords of its constructor.
        sharded: its parameters are, also where TrainingArguments do not say so.
    """
    owned = blueprint.settings.get("owned") is True
    sharded = sharded or is_sharded(blueprint.fields, blueprint.routing)
    owned = owned or (sharded and _looks_at_whole_parameters(blueprint, implementation))
    if sharded and not owned and is_stored(blueprint.settings):
        # what is packed is a plain tensor: of a part where elements are for themselves, of the whole otherwise
        return "local" if is_elementwise(implementation, given) else "owned"
    return across(implementation, given, sharded=sharded, owned=owned)


def _looks_at_whole_parameters(blueprint: Blueprint, implementation: Implementation) -> bool:
    """Whether settings say so, alike in all groups that have them."""
    for name, value in implementation.owned_with.items():
        groups: Sequence[Mapping[str, object]] = blueprint.groups
        held = [group[name] for group in groups if name in group] or [blueprint.settings.get(name)]
        if all(each == value for each in held):
            return True
    return False


def stepping_across(optimizer: Optimizer, way: Across, *, replicas: bool) -> Optimizer:
    """Return an optimizer with the facade that it needs to step on parameters that processes share.

    Args:
        optimizer: the only one of a blueprint, or one of a hybrid's.
        way: how it steps there.
        replicas: parameters that are not sharded have owners, too.
    """
    if way == "owned":
        return Owned(optimizer, replicas=replicas)
    return LocalShards(optimizer) if way == "local" else optimizer
