"""What the Trainer, and a client of it, is answered: a class and keywords, as transformers itself answers them.

Where the class alone makes what was planned, it is the very class, so that a client may pass our keywords to a class
of its own. Nothing of ours can be in it then: :func:`adopt` takes over what was made of it.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from anyoptim.arguments.fields import Fields
from anyoptim.arguments.overrides import GROUP_OPTIONS
from anyoptim.building.across import way_across
from anyoptim.building.assemble import class_of
from anyoptim.building.blueprint import Blueprint
from anyoptim.building.records import built
from anyoptim.building.storing import is_stored
from anyoptim.errors import OptimError, UnsupportedError
from anyoptim.names import lookup
from anyoptim.planning.plan import Plan, plan
from anyoptim.routing.groups import spans_meshes

Answer = tuple[type[Optimizer], dict[str, Any]]
Original = Callable[[Any, Any], tuple[Any, Any]]


def answer(original: Original, args: Any, model: nn.Module | None) -> Answer:
    """Return the class and the keywords of ``args.optim``, in the shape that every version of transformers reads.

    Args:
        original: transformers' own ``get_optimizer_cls_and_kwargs``.
        args: the ``TrainingArguments``.
        model: ``None`` where a client asks without.
    """
    planned, theirs = _plan(original, args, model)
    keywords = {**theirs, **_set_or_unlike(planned, theirs)}
    if _is_the_class_alone(planned):
        return class_of(planned), keywords
    if not planned.implementation.takes_groups:
        keywords["model"] = planned.model
    return _own_class(planned), keywords


def adopt(original: Original, trainer: Any, model: nn.Module | None = None) -> None:
    """Take over what a trainer has made of the very class that it was answered; anything else stays a stranger's.

    Args:
        original: transformers' own ``get_optimizer_cls_and_kwargs``.
        trainer: has just made its optimizer.
        model: that it was made for, where it is not ``trainer.model``.
    """
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # accelerate wraps it
    if optimizer is None or built(optimizer) is not None or not lookup.is_known(trainer.args.optim):
        return
    try:
        planned, _ = _plan(original, trainer.args, trainer.model if model is None else model)
    except OptimError:  # of a name that this subclass has not asked for
        return
    if _is_the_class_alone(planned) and type(optimizer) is class_of(planned):
        planned.adopt(optimizer)


def _plan(original: Original, args: Any, model: nn.Module | None) -> tuple[Plan, dict[str, Any]]:
    """Return the plan with transformers' class of the same package, and its keywords; none where it has no answer."""
    planned = plan(args.optim, model, args)
    if not _is_the_class_alone(planned):
        return planned, {}
    try:
        theirs, keywords = original(_WithoutOptimArgs(args), None)
    except (ImportError, RuntimeError, ValueError, TypeError):  # a name that only we have, or one that needs more
        return planned, {}
    ours = class_of(planned)
    if theirs is not ours:  # bitsandbytes' AdamW of 8 bits, beside its AdamW8bit
        if not isinstance(theirs, type) or _package(theirs) != _package(ours):
            return planned, {}
        implementation = dataclasses.replace(planned.implementation, target=theirs)
        settings = dataclasses.replace(planned.settings, implementation=implementation)
        planned = dataclasses.replace(planned, settings=settings)
    return planned, keywords


class _WithoutOptimArgs:
    """TrainingArguments without ``optim_args``, which transformers reads in a way of its own."""

    optim_args = None

    def __init__(self, args: Any) -> None:
        self._args = args

    def __getattr__(self, name: str) -> Any:
        return getattr(self._args, name)


def _package(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _is_the_class_alone(planned: Blueprint) -> bool:
    """Whether the class makes what was planned, from the groups that the Trainer makes by itself."""
    return (
        planned.implementation.takes_groups
        and isinstance(planned.implementation.load(), type)
        and not planned.spec.wrappers
        and planned.spec.fallback is None
        and not planned.spec.traits.needs_closure
        and not planned.settings.get("fused_backward")
        and not is_stored(planned.settings)
        and not way_across(planned, planned.implementation, planned.keywords)
        and _trainer_makes_the_groups(planned)
    )


def _trainer_makes_the_groups(planned: Blueprint) -> bool:
    """Whether the groups that ``Trainer.create_optimizer`` makes by itself are the plan's."""
    return (
        planned.settings.get("weight_decay") in (_decay_of(planned.fields), None)
        and not planned.settings.overrides
        and not planned.spec.traits.needs_targets
        and not (planned.implementation.one_group and planned.model is not None)
        and all(set(group) <= {"params", "weight_decay"} and not spans_meshes(group) for group in planned.groups)
    )


def _decay_of(fields: Fields) -> float:
    return fields.number("weight_decay") or 0.0


def _set_or_unlike(planned: Blueprint, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that somebody set, and those whose planned value is not what the constructor takes anyway.

    Weight decay of TrainingArguments is in the groups, unless transformers passes it, too.
    """
    parameters = inspect.signature(planned.implementation.load()).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    found = {}
    for each in planned.implementation.hyperparameters:
        key = each.keyword
        if key not in planned.keywords:
            continue
        value, source = planned.keywords[key], planned.settings.source(each.name)
        if source == "default":
            own = parameters[key].default if key in parameters else inspect.Parameter.empty
            # a member of an enum equals its value, but no checkpoint should hold it
            same = own == value and not isinstance(own, Enum)
            leave_out = key in theirs or same or not (key in parameters or takes_any)
        else:
            leave_out = key == "weight_decay" and source == "TrainingArguments" and key not in theirs
        if not leave_out:
            found[key] = value
    return found


def _own_class(planned: Plan) -> type[Optimizer]:
    """Return a class whose call is ``planned.construct``: 4.57 and 5.x both call ``cls(groups, **kwargs)``.

    A class, because transformers 5 calls any other callable as ``factory()(model, **kwargs)``; the
    object it makes is the real optimizer class's own.
    """

    def construct(_: type, params: Any, **kwargs: Any) -> Optimizer:
        return planned.construct(_routed(planned, params) if planned.implementation.takes_groups else params, **kwargs)

    base = class_of(planned)
    return type(base.__name__, (base,), {"__new__": construct, "__module__": base.__module__})


def _routed(planned: Plan, params: Iterable[Any]) -> Iterable[Any]:
    """Return the plan's groups of the parameters that a caller passes; its own where the plan has none to add."""
    if _trainer_makes_the_groups(planned):
        return params
    given = [each if isinstance(each, Mapping) else {"params": [each]} for each in params]
    if planned.model is None:
        _refuse_without_model(planned, given)
        return given
    usual = {"params", "weight_decay"}.union(*planned.groups)
    if any(set(group) - usual for group in given):
        raise UnsupportedError(
            f"{planned.spec.name} makes its own param groups; groups with settings of their own (such as LoRA+ or a"
            " learning-rate mapping) do not fit it."
        )
    passed = {each for group in given for each in _parameters(group)}
    known = {each for group in planned.groups for each in group["params"]}
    if any(each.requires_grad and each not in known for each in passed):
        raise UnsupportedError(
            f"{planned.spec.name} makes its own param groups, of the model that it was planned for; the groups that"
            " were passed have parameters of another one."
        )
    if known <= passed:
        return planned.groups
    kept = [{**group, "params": [each for each in group["params"] if each in passed]} for group in planned.groups]
    return [group for group in kept if group["params"]]


def _refuse_without_model(planned: Plan, given: list[Mapping[str, Any]]) -> None:
    """Raise for settings that only a model's structure can turn into groups."""
    if planned.settings.overrides:
        name = next(each for each in GROUP_OPTIONS if planned.settings.get(each) is not None)
        raise UnsupportedError(
            f"{planned.spec.name}: {name} needs the model, and get_optimizer_cls_and_kwargs(args) was called without;"
            f" call it with model=, or drop {name} from optim_args."
        )
    decay = planned.settings.get("weight_decay")
    if decay not in {group.get("weight_decay", decay) for group in given}:
        raise UnsupportedError(
            f"{planned.spec.name}: weight_decay={decay} of optim_args would have no effect, since the groups that were"
            " passed have their own; set TrainingArguments.weight_decay instead."
        )


def _parameters(group: Mapping[str, Any]) -> list[Tensor]:
    params = group["params"]
    return [params] if isinstance(params, Tensor) else [each[1] if isinstance(each, tuple) else each for each in params]
