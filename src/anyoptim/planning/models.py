"""Models that an optimizer cannot train, refused before a step would fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from anyoptim.arguments.settings import Settings
from anyoptim.errors import UnsupportedError
from anyoptim.names.role import Role
from anyoptim.names.spec import OptimizerSpec
from anyoptim.routing.groups import GroupDict
from anyoptim.routing.routes import Routing


def refuse_model(
    spec: OptimizerSpec, settings: Settings, model: nn.Module, routing: Routing, groups: Sequence[GroupDict]
) -> None:
    """Raise an ``UnsupportedError`` for a model that the optimizer cannot train.

    Args:
        spec: the optimizer.
        settings: its resolved hyperparameters.
        model: the model.
        routing: where its parameters go.
        groups: the groups that come of it.
    """
    if spec.traits.second_order:
        _refuse_attention(spec, model)
    if settings.implementation.takes_lora_pairs:
        _refuse_what_is_no_pair(spec, routing, groups)


def _refuse_attention(spec: OptimizerSpec, model: nn.Module) -> None:
    """Raise for attention whose kernel has no second derivative."""
    configs = (getattr(each, "config", None) for each in model.modules())
    used = {str(getattr(each, "_attn_implementation", None) or "eager") for each in configs} - {"eager"}
    if not _sdpa_is_fused():
        used -= {"sdpa"}
    if used:
        raise UnsupportedError(
            f"{spec.name} differentiates gradients, which attn_implementation={min(used)!r} does not support; load the"
            " model with attn_implementation='eager', or call model.set_attn_implementation('eager')."
        )


def _sdpa_is_fused() -> bool:
    """Whether torch's attention may take a kernel instead of plain operations, by the switches of the process."""
    switches: Any = torch.backends.cuda
    on_gpu = torch.cuda.is_available() and switches.cudnn_sdp_enabled()
    return bool(switches.flash_sdp_enabled() or switches.mem_efficient_sdp_enabled() or on_gpu)


def _refuse_what_is_no_pair(spec: OptimizerSpec, routing: Routing, groups: Sequence[GroupDict]) -> None:
    places = {each.parameter: each.place for each in routing.routes}
    for group in groups:
        held = [places[each] for each in group["params"]]
        for index, place in enumerate(held):
            first = index % 2 == 0
            beside = held[index + 1 : index + 2] if first else held[index - 1 : index]
            is_pair = beside and _adapted(beside[0].bare_name) == _adapted(place.bare_name)
            if place.role is not (Role.LORA_A if first else Role.LORA_B) or not is_pair:
                raise UnsupportedError(
                    f"{spec.name} trains pairs of a LoRA A and its B, in one group each, and nothing else: {place.name}"
                    " is in no such pair; freeze it, drop settings for single parameters, or take adamw_torch."
                )


def _adapted(name: str) -> str:
    """Return the name of the module that an adapter's matrix belongs to."""
    return name.lower().rpartition(".lora_")[0]
