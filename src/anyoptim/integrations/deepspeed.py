"""Refusing a DeepSpeed configuration that would put another optimizer in the place of the one asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyoptim.errors import UnsupportedError
from anyoptim.names import lookup, spelling


def refuse_deepspeeds_own_optimizer(trainer: Any) -> None:
    """Raise an ``UnsupportedError`` if DeepSpeed, or accelerate for its sake, would replace ``args.optim``.

    An "optimizer" block makes the Trainer skip its own (transformers/integrations/deepspeed.py,
    ``deepspeed_optim_sched``); offloading the optimizer makes accelerate build ``DeepSpeedCPUAdam`` whatever was asked
    for (accelerate/utils/deepspeed.py, ``map_pytorch_optim_to_deepspeed``).
    """
    name = spelling.normalise(trainer.args.optim)
    if not trainer.is_deepspeed_enabled or not lookup.is_known(name):
        return
    config: Mapping[str, Any] = trainer.accelerator.state.deepspeed_plugin.deepspeed_config
    if "optimizer" in config:
        raise UnsupportedError(
            f'The DeepSpeed configuration has an "optimizer" block ({config["optimizer"].get("type")}), which would'
            f" silently replace optim={name!r}; delete the block."
        )
    offload = config.get("zero_optimization", {}).get("offload_optimizer") or {}
    if offload.get("device", "none") != "none" and config.get("zero_force_ds_cpu_optimizer", True):
        raise UnsupportedError(
            f"With offload_optimizer, DeepSpeedCPUAdam would silently replace optim={name!r}; set"
            ' "zero_force_ds_cpu_optimizer": false in the DeepSpeed configuration.'
        )
