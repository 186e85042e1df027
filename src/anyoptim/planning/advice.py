"""What is said once: settings that have no effect, or an unexpected one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from anyoptim.arguments.fields import Fields
from anyoptim.arguments.settings import Settings
from anyoptim.building.across import is_sharded
from anyoptim.engines.distributed import several_processes
from anyoptim.names.spec import OptimizerSpec
from anyoptim.planning.conditions import updates_before_step, without_rate
from anyoptim.planning.precision import advise_on_precision
from anyoptim.routing.routes import Routing

_CONSTANT_SCHEDULES = ("constant", "constant_with_warmup")
_FAR = 10.0


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
    for name, _ in without_rate(spec, settings):
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
    yield from advise_on_precision(spec, settings, routing)
    yield from _compiled_step(settings)
    yield from _rank(settings, routing)
    yield from _scale(settings, routing)
    if settings.get("orthogonalize") == "polar_express" and settings.source("ns_coefficients") != "default":
        yield "ns_coefficients has no effect with orthogonalize=polar_express, whose polynomials are its own"


def _clipping(spec: OptimizerSpec, settings: Settings, fields: Fields) -> Iterator[str]:
    largest = fields.number("max_grad_norm") or 0
    if largest <= 0:
        return
    if updates_before_step(settings, fields):
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


def _compiled_step(settings: Settings) -> Iterator[str]:
    packed = {settings.get("master_weights", "own"), settings.get("state_dtype", "own")} != {"own"}
    if settings.get("compiled_step") and not packed:
        yield "compiled_step has no effect without master_weights or state_dtype: nothing is packed"


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
