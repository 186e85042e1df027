"""The one way from a blueprint to an optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from anyoptim.building import mends
from anyoptim.building.across import is_elementwise, stepping_across, way_across
from anyoptim.building.blueprint import Blueprint
from anyoptim.building.calling import made_by
from anyoptim.building.monitored import monitored
from anyoptim.building.plain_state import as_plain
from anyoptim.building.records import stamp
from anyoptim.building.state_dicts import carry
from anyoptim.building.storing import stored
from anyoptim.building.training_weights import TrainingWeights
from anyoptim.engines.closure import WithClosure
from anyoptim.engines.composite import CompositeOptimizer
from anyoptim.engines.copies import copy_whole
from anyoptim.engines.distributed import lay_out_gradient
from anyoptim.engines.facade import Facade
from anyoptim.engines.fused_backward import FusedBackward
from anyoptim.errors import OptimArgsError, OptimError
from anyoptim.names.composing import MEMBER
from anyoptim.names.spec import Implementation
from anyoptim.routing.places import Place
from anyoptim.text import said

RATIO_LEFT = "a warmup ratio needs the number of training steps; set max_steps, or give warmup_steps in optim_args."
"""Why a warmup ratio cannot be built."""


on_construct: list[Callable[[Optimizer], None]] = []
"""What is told of every optimizer that is built to train."""


def construct(blueprint: Blueprint, params: nn.Module | Iterable[Any], **changed: object) -> Optimizer:
    """Build what trains: the optimizer with its record, what a run needs of it, and the facades around it.

    Args:
        blueprint: what was decided.
        params: param groups (copied, so a blueprint may be built twice), or the model.
        changed: constructor keywords that differ from the blueprint's.

    Raises:
        OptimArgsError: the constructor refuses its arguments, or keeps an overridden one for all groups together.
        MissingPackageError: the package behind it is not installed.
    """
    spec = blueprint.spec
    arguments = params if isinstance(params, nn.Module) else [_copy(each) for each in params]
    try:
        optimizer = assemble(blueprint, arguments, None, **changed)
    except OptimError:
        raise
    except Exception as error:  # what its constructor raises is its own affair
        raise OptimArgsError(
            f"{spec.name}: {blueprint.implementation.package} refuses its arguments: {said(error)}."
        ) from error
    _complete(blueprint, optimizer)
    if spec.traits.needs_closure:
        optimizer = WithClosure(optimizer, blueprint.model)
    elif blueprint.settings.get("fused_backward"):
        optimizer = FusedBackward(optimizer, waiting=blueprint.waiting)
    monitored(optimizer, blueprint)
    for tell in on_construct:
        tell(optimizer)
    return optimizer


def adopt(blueprint: Blueprint, optimizer: Optimizer) -> None:
    """Make of what somebody has built of a blueprint's class what :func:`construct` would have made, facades aside.

    Raises:
        OptimArgsError: it keeps an overridden keyword for all groups together.
    """
    _mended(optimizer, blueprint.implementation, blueprint, {})
    _complete(blueprint, optimizer)
    monitored(optimizer, blueprint)
    for tell in on_construct:
        tell(optimizer)


def _complete(blueprint: Blueprint, optimizer: Optimizer) -> None:
    """Give an optimizer its record, and what a run needs of it."""
    _refuse_inert_overrides(blueprint, optimizer)
    stamp(optimizer, blueprint.spec, blueprint.settings)
    carry(optimizer, partial(as_plain, optimizer) if "plain_state" in blueprint.implementation.mends else None)
    copy_whole(optimizer)
    if any(isinstance(parameter, DTensor) for group in optimizer.param_groups for parameter in group["params"]):
        optimizer.register_step_pre_hook(_lay_out_gradients)
    if blueprint.warmup_is_a_ratio:
        optimizer.register_step_pre_hook(_refuse_ratio)
    if blueprint.spec.traits.schedule_free and hasattr(optimizer, "eval"):
        TrainingWeights(optimizer)


def assemble(
    blueprint: Blueprint,
    params: nn.Module | Iterable[Any],
    stands_for: Mapping[Tensor, Tensor] | None = None,
    **changed: object,
) -> Optimizer:
    """Call the constructors, mend what they make and wrap it, and nothing else: no copy of the groups, no record.

    Args:
        blueprint: what was decided.
        params: param groups, or the model.
        stands_for: the model's parameters by those that stand in for them in ``params``, for a trial; it steps on
            whole tensors.
        changed: constructor keywords that differ from the blueprint's.
    """
    optimizer = _bare(blueprint, params, stands_for, **changed)
    for wrapper in blueprint.spec.wrappers:
        wrap: Any = wrapper.default.load()
        keywords = blueprint.settings.of_scope("wrapper", wrapper.name)
        optimizer = made_by(wrap, f"{wrapper.name}: {wrapper.default.class_path}", optimizer, **keywords)
    if blueprint.spec.wrappers:
        inside = [each for _, each in blueprint.members] + [each.default for each in blueprint.spec.wrappers]
        optimizer = stored(optimizer, blueprint, inside, elementwise=False, trial=stands_for is not None)
    return optimizer


def class_of(blueprint: Blueprint) -> type[Optimizer]:
    """Return the class of what is built, before any facade; imports the packages behind it."""
    loaded = [each.load() for _, each in blueprint.members]
    if blueprint.spec.wrappers:
        outermost: Any = blueprint.spec.wrappers[-1].default.load()
        return outermost if isinstance(outermost, type) else Optimizer
    if len(loaded) > 1:
        return CompositeOptimizer
    return loaded[0] if isinstance(loaded[0], type) and issubclass(loaded[0], Optimizer) else Optimizer


def _bare(
    blueprint: Blueprint,
    params: nn.Module | Iterable[Any],
    stands_for: Mapping[Tensor, Tensor] | None,
    **changed: object,
) -> Optimizer:
    """Call the constructor, or of a hybrid both, mend what they make, and let it step across processes."""
    spec, implementation = blueprint.spec, blueprint.implementation
    build = implementation.load()
    if isinstance(params, nn.Module) and implementation.takes != "model":
        named = [(name, each) for name, each in params.named_parameters() if each.requires_grad]
        params = named if implementation.takes == "named_parameters" else [each for _, each in named]
    what = f"{spec.name}: {implementation.class_path}"
    keywords = _that_it_has(blueprint, build, {**blueprint.keywords, **changed})

    def finished(made: Optimizer, each: Implementation, given: Mapping[str, object]) -> Optimizer:
        mended = _mended(made, each, blueprint, stands_for or {})
        if not spec.wrappers:  # around which it goes otherwise, since their averages and slow weights are state
            alone = is_elementwise(each, given)
            mended = stored(mended, blueprint, [each], elementwise=alone, trial=stands_for is not None)
        held = (parameter for group in made.param_groups for parameter in group["params"])
        way = way_across(blueprint, each, given, sharded=any(isinstance(one, DTensor) for one in held))
        # a trial steps whole parameters where there is nobody to exchange them with
        if way == "owned" and stands_for is not None:
            return mended
        return stepping_across(mended, way, replicas=blueprint.settings.get("owned") is True)

    if spec.fallback is None:
        return finished(made_by(build, what, params, **keywords), implementation, keywords)
    groups = list(params)  # type: ignore[arg-type]  # a hybrid takes no model
    rest = [group for group in groups if group[MEMBER] == spec.fallback.name]
    own = [group for group in groups if group[MEMBER] == spec.target_optimizer]
    theirs = {**blueprint.settings.of_scope("fallback"), **_taken_over(blueprint, changed)}
    members = {spec.target_optimizer: finished(made_by(build, what, own, **keywords), implementation, keywords)}
    if rest:
        other = spec.fallback.default
        made = made_by(other.load(), f"{spec.name}: {other.class_path}", rest, **theirs)
        members = {spec.fallback.name: finished(made, other, theirs), **members}
    return CompositeOptimizer(members)


def _mended(
    optimizer: Optimizer, implementation: Implementation, blueprint: Blueprint, stands_for: Mapping[Tensor, Tensor]
) -> Optimizer:
    """Apply what a spec names of ``mends``."""
    if implementation.mends:
        routes = blueprint.routing.routes if blueprint.routing else ()
        places: dict[Tensor, Place] = {each.parameter: each.place for each in routes}
        for name in implementation.mends:
            getattr(mends, name)(optimizer, lambda parameter: places.get(stands_for.get(parameter, parameter)))
    return optimizer


def _taken_over(blueprint: Blueprint, changed: Mapping[str, object]) -> dict[str, object]:
    """Return the changed keywords whose value a hybrid's fallback shares."""
    shared = {name: blueprint.settings.of_fallback(name) for name in changed}
    return {name: changed[name] for name, setting in shared.items() if setting is not None and setting.source == name}


def _that_it_has(
    blueprint: Blueprint, build: Callable[..., Optimizer], keywords: dict[str, object]
) -> dict[str, object]:
    """Leave out what nobody set and another version of the package does not have."""
    parameters = inspect.signature(build).parameters.values()
    names = {each.name for each in parameters}
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return keywords
    source = blueprint.settings.source
    return {key: value for key, value in keywords.items() if key in names or source(key) != "default"}


def _refuse_inert_overrides(blueprint: Blueprint, optimizer: Optimizer) -> None:
    """Raise for an override of a keyword that the optimizer keeps for all groups together."""
    while isinstance(optimizer, Facade):
        optimizer = optimizer.optimizer
    members = optimizer.optimizers.values() if isinstance(optimizer, CompositeOptimizer) else (optimizer,)
    kept_by_group = {"lr_ratio"}.union(blueprint.settings.of_scope("target"), *(each.defaults for each in members))
    for each in blueprint.routing.routes if blueprint.routing else ():
        adjustment = each.adjustment
        if adjustment is None or not adjustment.label:
            continue
        inert = set(adjustment.values) - kept_by_group
        if inert:
            raise OptimArgsError(
                f"{adjustment.label} sets {sorted(inert)[0]}, which {blueprint.spec.name} has for all groups together;"
                " set it in optim_args."
            )


def _refuse_ratio(optimizer: Optimizer, *_: object) -> None:
    """Stop a Trainer whose own ``create_scheduler`` left the warmup ratio unresolved."""
    if any(isinstance(group.get("warmup_steps"), float) for group in optimizer.param_groups):
        raise OptimArgsError(f"{type(optimizer).__name__}: {RATIO_LEFT}")


def _lay_out_gradients(optimizer: Optimizer, *_: object) -> None:
    """Let packages see gradients laid out as their parameters: some change them in place, which sums refuse."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            lay_out_gradient(parameter)


def _copy(group: object) -> object:
    if isinstance(group, Mapping):
        params = group["params"]
        return {**group, "params": params if isinstance(params, (Tensor, set)) else list(params)}
    return group
