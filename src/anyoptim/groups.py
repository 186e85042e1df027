"""A routing to param groups: target or not, decaying or not, one device mesh each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from torch import Tensor
from torch.nn import Parameter

from anyoptim.routing import Route, Routing
from anyoptim.settings import Settings


class GroupDict(TypedDict, total=False):
    """A param group; keys of target hyperparameters (rank, proj, ...) may follow."""

    params: list[Parameter]
    weight_decay: float


def make_groups(routing: Routing, settings: Settings) -> list[GroupDict]:
    """Build the param groups of a plan.

    The first two are transformers' own, decaying and not, and stay even when empty, so that a
    checkpoint of either side fits the other. Groups of targets follow, with their hyperparameters.

    Args:
        routing: every trainable parameter and where it goes.
        settings: gives ``weight_decay``, and the hyperparameters of scope "target".
    """
    weight_decay = settings.get("weight_decay")
    target_settings = settings.of_scope("target")
    groups: list[GroupDict] = []
    for is_target in (False, True):
        for decays in (True, False):
            routes = [each for each in routing.routes if each.is_target is is_target and each.decays is decays]
            if is_target and not routes:
                continue
            for params in by_mesh(routes):
                group = {"params": params, **(target_settings if is_target else {})}
                if weight_decay is not None:
                    group["weight_decay"] = weight_decay if decays else 0.0
                groups.append(group)  # type: ignore[arg-type]  # the keys of target settings vary
    return groups


def by_mesh(routes: Sequence[Route]) -> list[list[Parameter]]:
    """Split parameters by device mesh, as the Trainer does: one foreach or fused call cannot span two."""
    split: dict[object, list[Parameter]] = {}
    for each in routes:
        split.setdefault(device_mesh(each.parameter), []).append(each.parameter)
    return list(split.values()) or [[]]


def device_mesh(parameter: Tensor) -> object:
    """Return the mesh of a DTensor, ``None`` of a plain tensor."""
    return getattr(parameter, "device_mesh", None)
