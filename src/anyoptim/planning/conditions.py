"""What advice and refusals both ask: is it sharded, does the backward pass move weights, does all step at a rate."""

from __future__ import annotations

import os
from collections.abc import Iterator

from anyoptim.arguments.fields import Fields
from anyoptim.arguments.settings import Settings
from anyoptim.building.across import is_sharded
from anyoptim.engines.distributed import several_processes
from anyoptim.names.spec import OptimizerSpec


def uses_deepspeed(fields: Fields) -> bool:
    """Whether the run goes through DeepSpeed, by TrainingArguments or by ``accelerate launch``."""
    return bool(fields.get("deepspeed")) or os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"


def updates_before_step(settings: Settings, fields: Fields) -> bool:
    """Whether the backward pass moves weights; under DDP, updates wait for ``step()``."""
    return settings.in_backward and (is_sharded(fields, None) or not several_processes())


def without_rate(spec: OptimizerSpec, settings: Settings) -> Iterator[tuple[str, object]]:
    """Yield what steps without a learning rate: its name, and whether it then has a step size of its own."""
    if settings.implementation.own_step_size and settings.get("lr") is None:
        yield spec.target_optimizer, settings.get("relative_step", True)
    if spec.fallback is not None and spec.fallback.default.own_step_size:
        given = settings.of_scope("fallback")
        if given.get("lr") is None:
            yield spec.fallback.name, given.get("relative_step", True)
