"""Specs made of other specs: a pair of two optimizers, one inside a wrapper, a variant, the package's own class."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from anyoptim.errors import OptimError
from anyoptim.names.hyperparameters import STORAGE, Hyperparameter, Scope
from anyoptim.names.spec import OptimizerSpec

STORED_SETTINGS = frozenset(each.name for each in STORAGE)
"""The names of what decides how weights and state are held between steps."""

MEMBER = "optimizer"
"""The key of a param group that names the optimizer of a pair that it is for."""


def pair(matrix: OptimizerSpec, fallback: OptimizerSpec, name: str, **described: object) -> OptimizerSpec:
    """Return a hybrid: one optimizer on the targets, another one on all other parameters.

    Its hyperparameters are the first one's and, with ``fallback_`` before their names, the other's.

    Args:
        matrix: the optimizer of the targets.
        fallback: the other one; it treats every parameter alike.
        name: of the hybrid.
        described: other fields of the new spec.

    Raises:
        OptimError: one of the two cannot be part of a hybrid.
    """
    for member in (matrix, fallback):
        if member.wrappers or member.is_wrapper:
            raise OptimError(f"{name}: a wrapper goes around a pair, as in lookahead(muon+lion), not into one.")
    if fallback.traits.needs_targets:
        raise OptimError(f"{name}: {fallback.name} works on target modules, so it cannot train the rest.")
    if matrix.target_optimizer == fallback.name:
        raise OptimError(f"{name} is {fallback.name} twice; give groups= settings of their own instead.")
    theirs = fallback.default
    prefixed = tuple(
        _taken_by(fallback, each, name=f"fallback_{each.name}", scope="fallback")
        for each in theirs.hyperparameters
        if each.scope == "optimizer"
    )
    facades = tuple(each for each in theirs.hyperparameters if each.scope == "facade")
    implementations = []
    for each in matrix.implementations:
        own = tuple(one for one in each.hyperparameters if one.scope != "fallback" and _of_both(one, facades))
        has = {one.name for one in own}
        added = tuple(
            replace(one, default=False) for one in facades if one.name not in has and one.name not in STORED_SETTINGS
        )
        implementations.append(
            replace(
                each,
                hyperparameters=(*own, *added, *prefixed),
                limits={**theirs.limits, **each.limits},
                unsteady={**theirs.unsteady, **each.unsteady},
            )
        )
    traits = replace(
        matrix.traits,
        needs_targets=True,
        targets=matrix.traits.targets or "hidden-matrices",
        schedule_free=matrix.traits.schedule_free or fallback.traits.schedule_free,
        clips_updates=matrix.traits.clips_updates or fallback.traits.clips_updates,
        flat_pieces=False,
    )
    changed: dict[str, Any] = {"implementations": tuple(implementations), "traits": traits, **described}
    return replace(matrix, name=name, fallback=fallback, target_optimizer=matrix.target_optimizer, **changed)


def wrapped(inner: OptimizerSpec, wrapper: OptimizerSpec) -> OptimizerSpec:
    """Return an optimizer inside of a wrapper, as ``wrapper(inner)``.

    Its hyperparameters are the inner one's and, with the wrapper's name before theirs, the wrapper's.

    Raises:
        OptimError: the wrapper cannot work around it.
    """
    name = f"{wrapper.name}({inner.name})"
    if wrapper.cannot_wrap is None:
        raise OptimError(f"{name}: {wrapper.name} is no wrapper; `anyoptim list '*(*)'` shows those that are.")
    if inner.is_wrapper:
        raise OptimError(f"{name}: {inner.name} is a wrapper itself; write {wrapper.name}({inner.name}(adamw_torch)).")
    if any(each.name == wrapper.name for each in inner.wrappers):
        raise OptimError(f"{name}: {wrapper.name} is there twice.")
    for trait, reason in wrapper.cannot_wrap.items():
        if getattr(inner.traits, trait):
            raise OptimError(f"{name} cannot work: {reason}.")
    if inner.default.updates_in_backward:
        raise OptimError(f"{name} cannot work: {inner.package} updates inside the backward pass, out of its reach.")
    theirs = wrapper.default
    added = tuple(
        _taken_by(wrapper, each, name=f"{wrapper.name}_{each.name}", scope="wrapper") for each in theirs.hyperparameters
    )
    waits = {"fused_backward": f"{wrapper.name} needs every gradient of a step at once"}
    if wrapper.traits.needs_closure:
        waits |= dict.fromkeys(STORED_SETTINGS, f"{wrapper.name} evaluates the loss at other weights")
    implementations = tuple(
        replace(
            each,
            hyperparameters=(*(one for one in each.hyperparameters if one.name not in waits), *added),
            unsupported={**each.unsupported, **waits},
            limits={**theirs.limits, **each.limits},
            unsteady={**theirs.unsteady, **each.unsteady},
            device=each.device or theirs.device,
        )
        for each in inner.implementations
    )
    traits = replace(
        inner.traits,
        schedule_free=inner.traits.schedule_free or wrapper.traits.schedule_free,
        needs_closure=inner.traits.needs_closure or wrapper.traits.needs_closure,
        flat_pieces=False,
    )
    return replace(
        inner,
        name=name,
        summary=f"{inner.summary}; inside of {wrapper.summary}",
        aliases=(),
        implementations=implementations,
        traits=traits,
        usual_lr=wrapper.usual_lr or inner.usual_lr,
        wrappers=(*inner.wrappers, wrapper),
    )


def upstream(spec: OptimizerSpec, name: str) -> OptimizerSpec:
    """Return the spec of the package's own class, where an engine of ours is the default.

    Args:
        spec: has an implementation of that name.
        name: with the package before it.
    """
    own = tuple(each for each in spec.implementations if each.name == "upstream")
    return replace(spec, name=name, implementations=own, aliases=(), summary=f"{spec.summary}, by {own[0].package}")


def variant(
    spec: OptimizerSpec,
    name: str,
    *,
    summary: str | None = None,
    aliases: tuple[str, ...] = (),
    usual_lr: tuple[float, float] | None = None,
    **defaults: object,
) -> OptimizerSpec:
    """Return a spec of another name that differs in hyperparameter defaults.

    Raises:
        OptimError: a default is given for a hyperparameter that no implementation has.
    """
    unknown = defaults.keys() - {
        hyperparameter.name for each in spec.implementations for hyperparameter in each.hyperparameters
    }
    if unknown:
        raise OptimError(f"{spec.name} has no hyperparameter {sorted(unknown)[0]!r} to vary.")
    implementations = tuple(
        replace(
            each,
            hyperparameters=tuple(
                replace(one, default=defaults.get(one.name, one.default)) for one in each.hyperparameters
            ),
        )
        for each in spec.implementations
    )
    return replace(
        spec,
        name=name,
        target_optimizer=name,
        summary=summary or spec.summary,
        aliases=aliases,
        usual_lr=usual_lr or spec.usual_lr,
        implementations=implementations,
    )


def _of_both(own: Hyperparameter, facades: tuple[Hyperparameter, ...]) -> bool:
    """Whether a hybrid has a hyperparameter of its matrix optimizer: what is held between steps, both are told."""
    return own.name not in STORED_SETTINGS or any(each.name == own.name for each in facades)


def _taken_by(member: OptimizerSpec, each: Hyperparameter, *, name: str, scope: Scope) -> Hyperparameter:
    """Return a member's hyperparameter under the name that it has outside."""
    return replace(each, name=name, help=f"{each.help}, of {member.name}", scope=scope, member=member.name)
