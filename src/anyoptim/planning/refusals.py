"""What is refused before training, because it would train wrongly or not at all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from anyoptim.arguments.fields import Fields
from anyoptim.arguments.settings import Settings
from anyoptim.building.across import is_sharded
from anyoptim.building.storing import is_stored
from anyoptim.engines.distributed import several_processes
from anyoptim.errors import UnsupportedError
from anyoptim.names.spec import Implementation, OptimizerSpec
from anyoptim.planning.conditions import updates_before_step, uses_deepspeed, without_rate
from anyoptim.routing.routes import Routing

_DEVICES = {"cuda": "a CUDA GPU", "npu": "an Ascend NPU", "xla": "an XLA device"}


_SHARDED = "sharded checkpoints"  # the check of anyoptim.testing


def refuse_flat_pieces(spec: OptimizerSpec, model: nn.Module) -> None:
    """Raise an ``UnsupportedError`` for parameters that are flat pieces, where an optimizer may need them whole."""
    flat = any(getattr(each, "_fsdp_flattened", False) for each in model.parameters())
    if flat and not spec.traits.flat_pieces:
        raise UnsupportedError(
            f"{spec.name} is not known to train right on the flat pieces of parameters that FSDP1 hands to an"
            " optimizer; take FSDP2 (fully_shard, or fsdp_version: 2 in fsdp_config), or take adamw_torch."
        )


def refuse(
    spec: OptimizerSpec,
    settings: Settings,
    fields: Fields,
    routing: Routing | None,
    model: nn.Module | None = None,
) -> None:
    """Raise an ``UnsupportedError`` for a combination that would train wrongly.

    Args:
        spec: the optimizer.
        settings: its resolved hyperparameters.
        fields: TrainingArguments, or what stands for it.
        routing: ``None`` when planned without a model.
        model: whose adapters may read gradients.
    """
    implementation = settings.implementation
    _refuse_unusable(spec, implementation)
    _refuse_fields(spec, settings, fields)
    _refuse_adapters(spec, settings, fields, model)
    _refuse_no_rate(spec, settings)
    _refuse_storage(spec, settings, fields, routing)
    _refuse_monitor(spec, settings, fields, model)
    if implementation.takes == "parameters" and is_sharded(fields, None):
        raise UnsupportedError(
            f"{spec.name} keeps the parameters it was built with, which accelerate replaces under FSDP2; take DDP."
        )
    members = [(spec.target_optimizer, implementation)]
    if spec.fallback is not None:
        members.append((spec.fallback.name, spec.fallback.default))
    for name, each in members:
        if not each.shards and is_sharded(fields, routing):
            raise UnsupportedError(
                f"The {each.name} implementation of {name} cannot step on parameters that FSDP2 shards;"
                " take adalomo, apollo_mini or adamw_torch there, or train with DDP."
            )
        if _SHARDED in each.limits and is_sharded(fields, routing) and fields.get("save_strategy", "no") != "no":
            raise UnsupportedError(
                f"{name} cannot go on from a checkpoint of FSDP2: {each.limits[_SHARDED]}. Set save_strategy='no', or"
                " train with DDP."
            )
        if spec.fallback is not None and not each.takes_groups:
            raise UnsupportedError(f"{spec.name}: {each.package} has no param groups, so it cannot be part of a pair.")
    for target in routing.targets if routing is not None else ():
        if target.parameter.dim() < 2:
            raise UnsupportedError(
                f"{spec.name} needs {target.name} as the matrix it is, not as a flat piece of it; shard with FSDP2."
            )
    if not implementation.updates_in_backward:
        return
    better = "lomo or adalomo" if spec.default is implementation else f"implementation={spec.default.name}"
    accumulation = fields.number("gradient_accumulation_steps") or 1
    if accumulation > 1:
        raise UnsupportedError(
            f"{implementation.package} updates on every micro-batch of gradient_accumulation_steps="
            f"{accumulation:g}; take {better}, which updates once."
        )
    if several_processes():
        raise UnsupportedError(
            f"{implementation.package} updates from each process's own gradient, so the replicas would drift apart;"
            f" take {better}, which waits for the reduced one."
        )


def _refuse_fields(spec: OptimizerSpec, settings: Settings, fields: Fields) -> None:
    if fields.get("fp16") is True:
        _refuse_loss_scaling(spec, settings)
    if fields.get("auto_find_batch_size") is True:
        _refuse_another_attempt(spec, settings, fields)
    if uses_deepspeed(fields):
        _refuse_deepspeed(spec, settings)


def _refuse_loss_scaling(spec: OptimizerSpec, settings: Settings) -> None:
    cases = {
        "updates inside the backward pass": settings.in_backward,
        "evaluates the loss inside its step": spec.traits.needs_closure,
        "differentiates gradients": spec.traits.second_order,
    }
    for what, does in cases.items():
        if does:
            raise UnsupportedError(f"{spec.name} {what}, where fp16 gradients are still scaled; use bf16=True.")


def _refuse_another_attempt(spec: OptimizerSpec, settings: Settings, fields: Fields) -> None:
    """Raise where a step that ran out of memory has moved weights already, from which another would go on."""
    cases = {
        "updates inside the backward pass": updates_before_step(settings, fields),
        "moves the weights to evaluate the loss again": spec.traits.needs_closure,
    }
    for what, does in cases.items():
        if does:
            raise UnsupportedError(
                f"{spec.name} {what}, so a batch that does not fit would leave weights half-way; set"
                " auto_find_batch_size=False and a per_device_train_batch_size that fits."
            )


def _refuse_adapters(spec: OptimizerSpec, settings: Settings, fields: Fields, model: nn.Module | None) -> None:
    """Raise where PEFT's adapters read gradients between the backward pass and the next one."""
    configs = getattr(model, "peft_config", None)
    for config in configs.values() if isinstance(configs, Mapping) else ():
        kind = getattr(config, "peft_type", None)
        if getattr(kind, "value", kind) == "ADALORA" and updates_before_step(settings, fields):
            raise UnsupportedError(
                f"{spec.name} updates inside the backward pass, but AdaLoRA's update_and_allocate() reads the gradients"
                " after it; set fused_backward=false in optim_args."
            )


def _refuse_unusable(spec: OptimizerSpec, implementation: Implementation) -> None:
    """Raise for what cannot train here: a package that is not there is said when it is loaded."""
    for each in (implementation, *((spec.fallback.default,) if spec.fallback else ())):
        if each.unusable:
            raise UnsupportedError(f"{spec.name} cannot train with the Trainer or a loop: {each.unusable}.")
        if each.needs_process_group and not torch.distributed.is_initialized():
            raise UnsupportedError(f"{spec.name} calls torch.distributed, which is not set up; launch with torchrun.")
        device = getattr(torch, each.device, None) if each.device else None
        if each.device and each.installed and not (device is not None and device.is_available()):
            raise UnsupportedError(f"{spec.name} needs {_DEVICES[each.device]}, and there is none here.")


def _refuse_no_rate(spec: OptimizerSpec, settings: Settings) -> None:
    for name, steps in without_rate(spec, settings):
        if steps is False:
            raise UnsupportedError(f"{name} cannot step without a learning rate; set lr, or relative_step=true.")
        for wrapper in spec.wrappers:
            if wrapper.traits.needs_rate:
                raise UnsupportedError(
                    f"{spec.name}: {wrapper.name} computes with the learning rate of {name}, which has none here;"
                    " set lr in optim_args (and relative_step=false where that is set), or wrap adamw_torch."
                )


def _refuse_storage(spec: OptimizerSpec, settings: Settings, fields: Fields, routing: Routing | None) -> None:
    if not is_stored(settings):
        if settings.get("offload_dir"):
            raise UnsupportedError(f"{spec.name}: offload_dir has no effect without offload=disk; set both or none.")
        return
    if settings.get("offload_dir") and settings.get("offload") != "disk":
        raise UnsupportedError(f"{spec.name}: offload_dir has no effect without offload=disk; set both or none.")
    if spec.wrappers and is_sharded(fields, routing):
        raise UnsupportedError(
            f"{spec.name}: master_weights, state_dtype and offload cannot go around a wrapper on parameters that FSDP2"
            f" shards; leave them out of optim_args, take {spec.target_optimizer} alone, or train with DDP."
        )


def _refuse_monitor(spec: OptimizerSpec, settings: Settings, fields: Fields, model: nn.Module | None) -> None:
    if not settings.get("monitor"):
        return
    package = settings.implementation.package
    if settings.implementation.updates_in_backward:
        raise UnsupportedError(
            f"{spec.name}: monitor measures what step() does, and {package} updates in a backward pass of its own;"
            " leave monitor out of optim_args, or take our lomo or adalomo."
        )
    flat = model is not None and any(getattr(each, "_fsdp_flattened", False) for each in model.parameters())
    if flat or uses_deepspeed(fields):
        raise UnsupportedError(
            f"{spec.name}: monitor cannot tell the parameters of DeepSpeed's and FSDP1's flat pieces apart; leave"
            " monitor out of optim_args, or shard with FSDP2."
        )


def _refuse_deepspeed(spec: OptimizerSpec, settings: Settings) -> None:
    if spec.traits.schedule_free:
        raise UnsupportedError(
            f"{spec.name} cannot put its average into a model whose weights DeepSpeed keeps; train it with FSDP2 or"
            " DDP."
        )
    if not spec.traits.flat_pieces:
        raise UnsupportedError(
            f"{spec.name} is not known to train right on the flat pieces of parameters that DeepSpeed hands to an"
            " optimizer; train it with FSDP2 or DDP, or take adamw_torch."
        )
    if is_stored(settings):
        raise UnsupportedError(
            f"{spec.name} cannot hold weights and state in ways of its own beside DeepSpeed's fp32 weights; leave"
            " master_weights, state_dtype and offload out of optim_args, or shard with FSDP2."
        )
    if settings.get("owned"):
        raise UnsupportedError(
            f"{spec.name} cannot have owners of parameters that DeepSpeed cuts into pieces; leave owned out of"
            " optim_args, or train it with DDP."
        )
    if settings.get("fused_backward"):
        raise UnsupportedError(
            f"{spec.name} updates inside the backward pass, but DeepSpeed keeps the gradients to itself; set"
            " fused_backward=false in optim_args, or shard with FSDP2."
        )
