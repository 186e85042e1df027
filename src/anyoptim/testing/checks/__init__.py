"""The checks of the conformance kit: each takes a subject and returns its evidence in a few words, or raises."""

from __future__ import annotations

from collections.abc import Callable

from anyoptim.testing.checks.backward import fused_backward, reentrant_checkpointing
from anyoptim.testing.checks.groups import (
    added_group,
    builds,
    decay_groups,
    follows_the_schedule,
    rate_of_a_group,
    typed_arguments,
)
from anyoptim.testing.checks.runs import accumulates_gradients, loads_weights_only, logged_losses, resumes, trains
from anyoptim.testing.checks.sharding import moves, resumes_sharded, shards, shards_replicas
from anyoptim.testing.checks.state import copies, load_hooks, predicts_memory, refuses_other_state, state_on_device
from anyoptim.testing.checks.steps import (
    bf16_parameters,
    compiles,
    fp16_parameters,
    has_its_traits,
    scaled_loss,
    skips_missing_gradients,
)
from anyoptim.testing.checks.storing import keeps_masters, packs_state
from anyoptim.testing.checks.verdicts import Failure, NotApplicable
from anyoptim.testing.sharded import MOVES, RESUMES, TRAINS, TRAINS_HYBRID
from anyoptim.testing.subject import Subject

__all__ = ["CHECKS", "Failure", "NotApplicable", "logged_losses"]

CHECKS: dict[str, Callable[[Subject], str]] = {
    "builds": builds,
    "trains": trains,
    "resume": resumes,
    "weights_only": loads_weights_only,
    "traits": has_its_traits,
    "typed arguments": typed_arguments,
    "decay groups": decay_groups,
    "schedule": follows_the_schedule,
    "per-group rate": rate_of_a_group,
    "added group": added_group,
    "None gradients": skips_missing_gradients,
    "bf16": bf16_parameters,
    "fp16": fp16_parameters,
    "AMP scaler": scaled_loss,
    "device": state_on_device,
    "deepcopy and pickle": copies,
    "load hooks": load_hooks,
    "other state": refuses_other_state,
    "fused backward": fused_backward,
    "reentrant checkpointing": reentrant_checkpointing,
    "master weights": keeps_masters,
    "packed state": packs_state,
    "accumulation": accumulates_gradients,
    TRAINS: shards,
    RESUMES: resumes_sharded,
    TRAINS_HYBRID: shards_replicas,
    MOVES: moves,
    "torch.compile": compiles,
    "memory": predicts_memory,
}
"""By the names under which a spec states limits."""
