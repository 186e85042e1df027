"""What is said once about a setting that cannot take effect, and refused when it would train wrongly."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from anyoptim.arguments.fields import Fields
from anyoptim.arguments.settings import Settings
from anyoptim.engines.engine import several_processes
from anyoptim.errors import UnsupportedError
from anyoptim.names.spec import Implementation, OptimizerSpec
from anyoptim.routing.routes import Routing

_CONSTANT_SCHEDULES = ("constant", "constant_with_warmup")
_FAR = 10.0
_DEVICES = {"cuda": "a CUDA GPU", "npu": "an Ascend NPU", "xla": "an XLA device"}


def advise(spec: OptimizerSpec, settings: Settings, fields: Fields, routing: Routing | None) -> Iterator[str]:
    """Yield one sentence for each setting that has no effect or an unexpected one.

    Args:
        spec: the optimizer.
        settings: its resolved hyperparameters.
        fields: TrainingArguments, or what stands for it.
        routing: ``None`` when planned without a model.
    """
    if routing is not None:
        yield from routing.notes
    yield from _schedule(spec, fields)
    for name, _ in _without_rate(spec, settings):
        if "lr_scheduler_type" in fields:
            yield f"lr_scheduler_type has no effect on {name}, whose step size is its own; logs show the rate 0"
    yield from _learning_rate(spec, settings)
    yield from _clipping(spec, settings, fields)
    if settings.get("fused_backward") and several_processes() and not is_sharded(fields, routing):
        yield (
            "fused_backward saves no memory under DDP, which must reduce gradients first: updates wait for step();"
            " shard with FSDP2 to update in the backward pass"
        )
    accumulation = fields.number("gradient_accumulation_steps") or 1
    if settings.get("fused_backward") and accumulation > 1:
        yield (
            f"gradient_accumulation_steps={accumulation:g} keeps every gradient between micro-batches, so updating in"
            " the backward pass saves no memory; raise the batch size instead where it fits"
        )
    yield from _hybrid(spec, settings)
    if not spec.traits.needs_targets and "optim_target_modules" in fields:
        yield f"optim_target_modules has no effect: {spec.name} treats every module alike"
    if "lr" not in settings.values and fields.number("learning_rate"):
        yield f"learning_rate has no effect: {spec.name} has none"
    if settings.get("weight_decay") is None and fields.number("weight_decay"):
        yield f"weight_decay has no effect: {spec.name} has none"
    own = settings.implementation
    if (own.updates_in_backward or own.one_group) and settings.number("weight_decay"):
        why = "takes one param group" if own.one_group else "has no param groups"
        yield (
            f"weight_decay applies to every parameter, biases and norms too: the {own.name} implementation of"
            f" {spec.name} {why}"
        )
    routes = routing.routes if routing is not None else ()
    if settings.number("weight_decay") and any(hasattr(each.parameter, "_is_flat_param") for each in routes):
        yield (
            "weight_decay applies to biases and norms, too, which FSDP1 has put into one flat parameter with the"
            " weights; set use_orig_params=True, or take FSDP2"
        )
    if not settings.implementation.resumable and fields.get("save_strategy", "no") != "no":
        yield f"checkpoints cannot be resumed: {settings.implementation.package} does not restore its state"
    yield from _rank(settings, routing)
    yield from _scale(settings, routing)


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
        "updates inside the backward pass": _updates_before_step(settings, fields),
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
        if getattr(kind, "value", kind) == "ADALORA" and _updates_before_step(settings, fields):
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


def _without_rate(spec: OptimizerSpec, settings: Settings) -> Iterator[tuple[str, object]]:
    """Yield what steps without a learning rate: its name, and whether it then has a step size of its own."""
    if settings.implementation.own_step_size and settings.get("lr") is None:
        yield spec.target_optimizer, settings.get("relative_step", True)
    if spec.fallback is not None and spec.fallback.default.own_step_size:
        given = settings.of_scope("fallback")
        if given.get("lr") is None:
            yield spec.fallback.name, given.get("relative_step", True)


def _refuse_no_rate(spec: OptimizerSpec, settings: Settings) -> None:
    for name, steps in _without_rate(spec, settings):
        if steps is False:
            raise UnsupportedError(f"{name} cannot step without a learning rate; set lr, or relative_step=true.")
        for wrapper in spec.wrappers:
            if wrapper.traits.needs_rate:
                raise UnsupportedError(
                    f"{spec.name}: {wrapper.name} computes with the learning rate of {name}, which has none here;"
                    " set lr in optim_args (and relative_step=false where that is set), or wrap adamw_torch."
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
    if settings.get("fused_backward"):
        raise UnsupportedError(
            f"{spec.name} updates inside the backward pass, but DeepSpeed keeps the gradients to itself; set"
            " fused_backward=false in optim_args, or shard with FSDP2."
        )


def uses_deepspeed(fields: Fields) -> bool:
    """Whether the run goes through DeepSpeed, by TrainingArguments or by ``accelerate launch``."""
    return bool(fields.get("deepspeed")) or os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"


def is_sharded(fields: Fields, routing: Routing | None) -> bool:
    """Whether FSDP2 shards the parameters already, or will do so when accelerate prepares the model."""
    held = routing is not None and any(isinstance(each.parameter, DTensor) for each in routing.routes)
    return held or bool(fields.get("fsdp")) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def _updates_before_step(settings: Settings, fields: Fields) -> bool:
    """Whether the backward pass moves weights; under DDP, updates wait for ``step()``."""
    return settings.in_backward and (is_sharded(fields, None) or not several_processes())


def _clipping(spec: OptimizerSpec, settings: Settings, fields: Fields) -> Iterator[str]:
    largest = fields.number("max_grad_norm") or 0
    if largest <= 0:
        return
    if _updates_before_step(settings, fields):
        yield (
            f"max_grad_norm={largest} has no effect: {spec.name} updates inside the backward"
            " pass, before the norm of all gradients is known; set max_grad_norm=0"
        )
    elif spec.traits.clips_updates:
        yield f"max_grad_norm={largest} works against {spec.name}, which limits its updates itself; set max_grad_norm=0"


def _schedule(spec: OptimizerSpec, fields: Fields) -> Iterator[str]:
    if not spec.traits.schedule_free or "lr_scheduler_type" not in fields:
        return
    schedule = fields.get("lr_scheduler_type")
    name = str(getattr(schedule, "value", schedule))
    if name not in _CONSTANT_SCHEDULES:
        yield (
            f"lr_scheduler_type='{name}' works against {spec.name}, which needs no schedule;"
            " set lr_scheduler_type='constant'"
        )
    elif name == "constant_with_warmup" and any("warmup_steps" in each.name for each in spec.hyperparameters):
        yield f"the warmup is applied twice, by the schedule and by {spec.name}; set lr_scheduler_type='constant'"


def _learning_rate(spec: OptimizerSpec, settings: Settings) -> Iterator[str]:
    for key, name, each in (("lr", spec.target_optimizer, spec), ("fallback_lr", "", spec.fallback)):
        rate = settings.number(key)
        if each is None or rate is None or each.usual_lr is None or rate == 0:
            continue
        low, high = each.usual_lr
        if not low / _FAR <= rate <= high * _FAR:
            side = "below" if rate < low else "above"
            yield f"{key}={rate:g} is far {side} what {name or each.name} usually takes ({low:g} to {high:g})"


def _hybrid(spec: OptimizerSpec, settings: Settings) -> Iterator[str]:
    if spec.fallback is None:
        return
    rate = settings.of_fallback("lr")
    one_rate = rate is not None and rate.source == "lr"
    if one_rate and "adjust_lr_fn" in settings.values and settings["adjust_lr_fn"] != "match_rms_adamw":
        yield (
            f"lr={settings['lr']} is for {spec.target_optimizer} and for {spec.fallback.name}, whose usual rates"
            " differ: set fallback_lr, or adjust_lr_fn=match_rms_adamw, with which one rate fits both"
        )
    if settings.get("fused_backward"):
        for name, each in (
            (spec.target_optimizer, settings.implementation),
            (spec.fallback.name, spec.fallback.default),
        ):
            if each.waits_for_step:
                reason = each.unsupported["fused_backward"]
                yield f"the gradients of {name} wait for step() in spite of fused_backward: {reason}"


def _rank(settings: Settings, routing: Routing | None) -> Iterator[str]:
    rank = settings.number("rank")
    if rank is None or routing is None:
        return
    small = [each for each in routing.targets if min(each.parameter.shape[-2:]) < rank]
    if small:
        yield (
            f"rank={rank:g} is larger than {len(small)} of {len(routing.targets)} target matrices, such as "
            f"{small[0].name} {tuple(small[0].parameter.shape)}: there it saves no memory"
        )


def _scale(settings: Settings, routing: Routing | None) -> Iterator[str]:
    """Compare APOLLO's scale with n/r, which makes up for projecting n dimensions to r (arXiv 2412.05270)."""
    rank, scale = settings.number("rank"), settings.number("scale")
    # what has no scale_type projects back instead, which keeps the size of an update
    if rank is None or scale is None or settings.get("scale_type") is None or routing is None or not routing.targets:
        return
    width = statistics.median(min(each.parameter.shape[-2:]) for each in routing.targets)
    fitting = max(width / rank, 1.0)
    # the square root of scale multiplies the update
    if not 1 / _FAR <= math.sqrt(scale / fitting) <= _FAR:
        side = "smaller" if scale < fitting else "larger"
        yield (
            f"scale={scale:g} with rank={rank:g} makes updates {math.sqrt(max(scale / fitting, fitting / scale)):.0f}"
            f" times {side} than AdamW's at the same lr; a scale near {fitting:g} fits matrices of {width:g} dimensions"
        )
