"""A routing to param groups: target or not, decaying or not, the same hyperparameters, mostly one device mesh each.

A parameter's overrides become keys of its group, and a ratio a rate, so that every scheduler scales it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from anyoptim.arguments.settings import Settings
from anyoptim.errors import OptimArgsError
from anyoptim.names.composing import MEMBER
from anyoptim.names.spec import OptimizerSpec
from anyoptim.routing.routes import Route, Routing


class GroupDict(TypedDict, total=False):
    """A param group; keys of target hyperparameters (rank, proj, ...) and of overrides may follow."""

    params: list[Parameter]
    weight_decay: float


def make_groups(routing: Routing, spec: OptimizerSpec, settings: Settings) -> list[GroupDict]:
    """Build the param groups of a plan.

    The first two are transformers' own, decaying and not, and stay even when empty, so that a checkpoint of either
    side fits the other; a hybrid has no empty groups. Groups of targets follow, with their hyperparameters, then
    groups with overrides, or of weights that consist of several matrices.

    Args:
        routing: every trainable parameter and where it goes.
        spec: the optimizer; the groups of a hybrid say which of the two optimizers they are for.
        settings: gives ``weight_decay``, the hyperparameters of scope "target" and what overrides are relative to.

    Raises:
        OptimArgsError: an override sets what the optimizer of a parameter does not have.
    """
    if settings.implementation.one_group:
        return [_one_group(routing, spec, settings)]
    members = {is_target: _Member(spec, settings, is_target=is_target) for is_target in (True, False)}
    buckets: dict[tuple[bool, bool, str], tuple[dict[str, object], list[Route]]] = {
        (False, True, ""): ({}, []),
        (False, False, ""): ({}, []),
    }
    used: set[tuple[str, str]] = set()
    for route in routing.routes:
        adjusted = members[route.is_target].adjusted(route) if route.adjustment else {}
        if route.pieces is not None:
            adjusted = {**adjusted, **route.pieces.values}
        if route.adjustment:
            used.update((route.adjustment.label, key) for key in route.adjustment.values if key in adjusted)
        key = (route.is_target, route.decays, repr(adjusted) if adjusted else "")
        buckets.setdefault(key, (adjusted, []))[1].append(route)
    _refuse_unused(routing, used, members.values())
    ordered = sorted(buckets.items(), key=lambda item: (bool(item[0][2]), item[0][0], not item[0][1]))
    groups: list[GroupDict] = []
    for (is_target, decays, _), (adjusted, routes) in ordered:
        values = members[is_target].values(decays=decays)
        groups += [
            {"params": params, **values, **adjusted}  # type: ignore[typeddict-item]  # the keys vary
            for params in members[is_target].split(routes)
            if params or spec.fallback is None
        ]
    return groups


def _one_group(routing: Routing, spec: OptimizerSpec, settings: Settings) -> GroupDict:
    """Return all parameters in one group, for a package that counts by group."""
    member = _Member(spec, settings, is_target=False)
    for route in routing.routes:
        if route.adjustment is not None:
            raise OptimArgsError(
                f"{route.adjustment.label or f'{spec.name}: {route.adjustment.rule}'} sets something for {route.name}"
                f" alone, but {spec.name} counts its steps by group and so takes one; leave it out, or take"
                " adamw_torch."
            )
    return {"params": [each.parameter for each in routing.routes], **member.values(decays=True)}  # type: ignore[typeddict-item]  # the keys vary


class _Member:
    """The optimizer of the targets, or of all that is none: of a hybrid two, else the same one."""

    def __init__(self, spec: OptimizerSpec, settings: Settings, *, is_target: bool) -> None:
        fallback = None if is_target else spec.fallback
        self.name = spec.target_optimizer if fallback is None else fallback.name
        self.keywords = settings.of_scope("optimizer") if fallback is None else settings.of_scope("fallback")
        self.by_place = (settings.implementation if fallback is None else fallback.default).by_place
        self.target_values = settings.of_scope("target") if is_target else {}
        self.marks: dict[str, object] = {MEMBER: self.name} if spec.fallback else {}
        own = settings.implementation if fallback is None else fallback.default
        self.shared = dict.fromkeys(own.one_for_all, "has one {} for all parameters")
        if own.own_step_size and self.keywords.get("lr") is None:
            self.shared["lr"] = "takes a step size of its own without an {} for all"
        flag = settings.implementation.group_flag
        if flag is not None:
            self.marks[flag.key] = flag.target if is_target else flag.rest
        self.taker = f"a target of {self.name}" if is_target else f"what {self.name} trains"

    def takes(self, key: str) -> bool:
        """Whether a group of its may set a hyperparameter."""
        return key in self.keywords or key in self.target_values

    def split(self, routes: Sequence[Route]) -> list[list[Parameter]]:
        """Return the parameters of one group of a plan in as many groups as the optimizer needs."""
        return [[each.parameter for each in routes]] if self.by_place else by_mesh(routes)

    def values(self, *, decays: bool) -> dict[str, object]:
        """Return what a group without overrides holds beside its parameters."""
        values = {**self.target_values, **self.marks}
        weight_decay = self.keywords.get("weight_decay")
        if weight_decay is not None:
            values["weight_decay"] = weight_decay if decays else 0.0
        return values

    def adjusted(self, route: Route) -> dict[str, object]:
        """Return a route's overrides, with ``lr`` in the place of ``lr_ratio``."""
        assert route.adjustment is not None
        label = route.adjustment.label or self.name
        values: dict[str, object] = {}
        for key, value in route.adjustment.values.items():
            if key == "lr_ratio":
                rate = self.keywords.get("lr")
                if not isinstance(rate, (int, float)):
                    raise OptimArgsError(f"{label}: {self.name} has no lr that a ratio could be of; give lr instead.")
                assert isinstance(value, float)
                values["lr"] = rate * value
            elif self.takes(key):
                values[key] = value
        self._refuse_one_for_all(route, values)
        return values

    def _refuse_one_for_all(self, route: Route, values: Mapping[str, object]) -> None:
        """Raise for a value of a group's own where the package looks at one group's for all."""
        assert route.adjustment is not None
        for key, why in self.shared.items():
            if key in values and values[key] != self.keywords.get(key):
                subject = route.adjustment.label or f"{self.name}: {route.adjustment.rule}"
                raise OptimArgsError(
                    f"{subject} sets {key} for {route.name}, but {self.name} {why.format(key)}; leave it out, or take"
                    " an optimizer that has one for each group, such as adamw_torch."
                )


def _refuse_unused(routing: Routing, used: set[tuple[str, str]], members: Iterable[_Member]) -> None:
    """Raise for a key that no parameter's optimizer takes: a rank where no target is, a momentum for AdamW."""
    for route in routing.routes:
        if route.adjustment is None or not route.adjustment.label:
            continue
        for key in route.adjustment.values.keys() - {"lr_ratio"}:
            if (route.adjustment.label, key) not in used:
                takers = " and ".join(dict.fromkeys(each.taker for each in members if each.takes(key)))
                raise OptimArgsError(
                    f"{route.adjustment.label} sets {key}, which only {takers} takes: it matches none of these, but"
                    f" {route.name}."
                )


def by_mesh(routes: Sequence[Route]) -> list[list[Parameter]]:
    """Split parameters by device mesh, as the Trainer does: one foreach or fused call cannot span two."""
    split: dict[object, list[Parameter]] = {}
    for each in routes:
        split.setdefault(device_mesh(each.parameter), []).append(each.parameter)
    return list(split.values()) or [[]]


def spans_meshes(group: GroupDict) -> bool:
    """Whether a group holds parameters of several device meshes: the Trainer makes none that does."""
    return len({device_mesh(each) for each in group["params"]}) > 1


def device_mesh(parameter: Tensor) -> object:
    """Return the mesh of a DTensor, ``None`` of a plain tensor."""
    return parameter.device_mesh if isinstance(parameter, DTensor) else None
