"""What is said once about a setting that cannot take effect, and refused when it would train wrongly."""

from __future__ import annotations

from collections.abc import Iterator

import torch.distributed

from anyoptim.errors import UnsupportedError
from anyoptim.routing import Routing
from anyoptim.settings import Fields, Settings
from anyoptim.spec import OptimizerSpec

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
    yield from _learning_rate(spec, settings)
    if spec.traits.fused_backward and (fields.number("max_grad_norm") or 0) > 0:
        yield (
            f"max_grad_norm={fields.get('max_grad_norm')} has no effect: {spec.name} updates inside the backward"
            " pass, before the norm of all gradients is known; set max_grad_norm=0"
        )
    if not spec.traits.needs_targets and "optim_target_modules" in fields:
        yield f"optim_target_modules has no effect: {spec.name} treats every module alike"
    if settings.get("weight_decay") is None and fields.number("weight_decay"):
        yield f"weight_decay has no effect: {spec.name} has none"
    if settings.implementation.takes_model and settings.number("weight_decay"):
        yield (
            f"weight_decay applies to every parameter, biases and norms too: the {settings.implementation.name} "
            f"implementation of {spec.name} has no param groups"
        )
    if not settings.implementation.resumable and fields.get("save_strategy", "no") != "no":
        yield f"checkpoints cannot be resumed: {settings.implementation.package} does not restore its state"
    yield from _rank(settings, routing)


def refuse(spec: OptimizerSpec, settings: Settings, fields: Fields) -> None:
    """Raise an ``UnsupportedError`` for a combination that would train wrongly."""
    accumulation = fields.number("gradient_accumulation_steps") or 1
    if accumulation > 1 and not settings.implementation.accumulates:
        raise UnsupportedError(
            f"{settings.implementation.package} updates on every micro-batch of gradient_accumulation_steps="
            f"{accumulation:g}; take implementation={spec.default.name}, which updates once."
        )
    if not spec.traits.fused_backward:
        return
    if fields.get("fp16") is True:
        raise UnsupportedError(
            f"{spec.name} updates inside the backward pass, where fp16 gradients are still scaled; use bf16=True."
        )
    if (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    ):
        raise UnsupportedError(
            f"{spec.name} updates from each process's own gradient, so its replicas would drift apart;"
            " train it in one process, or use adafactor."
        )


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
    elif name == "constant_with_warmup" and "warmup_steps" in {each.name for each in spec.hyperparameters}:
        yield f"the warmup is applied twice, by the schedule and by {spec.name}; set lr_scheduler_type='constant'"


def _learning_rate(spec: OptimizerSpec, settings: Settings) -> Iterator[str]:
    rate = settings.number("lr")
    if rate is None or spec.usual_lr is None or rate == 0:
        return
    low, high = spec.usual_lr
    if not low / _FAR <= rate <= high * _FAR:
        side = "below" if rate < low else "above"
        yield f"lr={rate:g} is far {side} what {spec.name} usually takes ({low:g} to {high:g})"


def _rank(settings: Settings, routing: Routing | None) -> Iterator[str]:
    rank = settings.number("rank")
    if rank is None or routing is None:
        return
    small = [each for each in routing.targets if min(each.parameter.shape) < rank]
    if small:
        yield (
            f"rank={rank:g} is larger than {len(small)} of {len(routing.targets)} target matrices, such as "
            f"{small[0].name} {tuple(small[0].parameter.shape)}: there it saves no memory"
        )
