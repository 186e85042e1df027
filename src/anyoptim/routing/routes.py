"""Where each trainable parameter goes, and why: target or not, decaying or not, with which hyperparameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from anyoptim.arguments.settings import Settings
from anyoptim.errors import OptimError
from anyoptim.names.role import Role
from anyoptim.names.spec import OptimizerSpec
from anyoptim.routing.adjustments import Adjustment, adjust
from anyoptim.routing.layers import layer_numbers
from anyoptim.routing.pieces import Pieces, flattens, pieces_of, unsplit
from anyoptim.routing.places import Place
from anyoptim.routing.structure import read_structure
from anyoptim.routing.targets import Choice, choose_targets

# transformers.Trainer.get_decay_parameter_names: these, and all parameters of a LayerNorm, do not decay
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


class Route(NamedTuple):
    """Where one trainable parameter goes.

    Args:
        place: the parameter, its names and its role.
        choice: the target pattern that chose it; ``None``: it is no target.
        decays: whether weight decay applies, by transformers' rule.
        adjustment: the hyperparameters that differ for it; ``None``: none do.
        pieces: the matrices that it consists of; ``None``: it is one, or no target.
    """

    place: Place
    choice: Choice | None
    decays: bool
    adjustment: Adjustment | None
    pieces: Pieces | None = None

    @property
    def name(self) -> str:
        """Its first name in ``model.named_parameters()``."""
        return self.place.name

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter."""
        return self.place.parameter

    @property
    def role(self) -> Role:
        """What it is for."""
        return self.place.role

    @property
    def is_target(self) -> bool:
        """Whether a target pattern chose it."""
        return self.choice is not None

    @property
    def rule(self) -> str:
        """Why it is a target, and which later patterns match it too; ``-`` where it is none."""
        if self.choice is None:
            return "-"
        return f"{self.choice.rule} (also {', '.join(self.choice.also)})" if self.choice.also else self.choice.rule


@dataclass(frozen=True)
class Routing:
    """All trainable parameters of a model, each once, and what is worth saying about the patterns."""

    routes: tuple[Route, ...]
    notes: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[Route, ...]:
        """The routes that a target pattern chose."""
        return tuple(route for route in self.routes if route.is_target)


def route(model: nn.Module, spec: OptimizerSpec, settings: Settings, target_modules: object = None) -> Routing:
    """Decide where every trainable parameter goes; linear in modules.

    Args:
        model: any module.
        spec: the optimizer.
        settings: its implementation says what can be a target, its overrides what differs for single groups.
        target_modules: ``optim_target_modules``: a regex, ``"all-linear"``, ``"hidden-matrices"``, or a list of names,
            substrings and regexes, of which the first that matches wins; ``None``: the optimizer's own.

    Raises:
        OptimError: the model has no trainable parameter.
        TargetModulesError: targets are needed and missing, malformed, or a pattern chooses nothing.
        OptimArgsError: an override matches nothing.
    """
    structure = read_structure(model)
    places = [each for each in structure.places if each.parameter.requires_grad]
    if not places:
        raise OptimError(
            f"{spec.name}: the model has no trainable parameter; set requires_grad on what should be trained."
        )
    chosen: dict[str, Choice] = {}
    adjusted: dict[str, Adjustment] = {}
    pieces: dict[str, Pieces] = {}
    notes: list[str] = []
    if spec.traits.needs_targets:
        wanted = (spec.traits.targets or None) if target_modules is None else target_modules
        roles = settings.implementation.target_roles
        flat = frozenset(id(each.parameter) for each in places if flattens(each, settings))
        found, notes = choose_targets(structure, wanted, roles, spec.name, flat)
        chosen.update(found)
        targets = [each for each in places if each.name in chosen]
        cut = {each.name: pieces_of(each, settings) for each in targets}
        pieces = {name: each for name, each in cut.items() if each is not None}
        notes += unsplit(targets, pieces, settings)
    if settings.overrides:
        layers = layer_numbers(model, structure.places) if settings.overrides.layer_decay is not None else ({}, 0)
        adjusted, more = adjust(settings.overrides, places, layers, spec.name)
        notes += more
    routes = tuple(
        Route(
            place,
            chosen.get(place.name),
            not place.below_layer_norm and not _NO_DECAY.search(place.name.lower()),
            adjusted.get(place.name),
            pieces.get(place.name),
        )
        for place in places
    )
    if spec.traits.needs_targets:
        notes += _unreached(routes, settings)
    return Routing(routes, tuple(notes))


def _unreached(routes: Sequence[Route], settings: Settings) -> Iterator[str]:
    """Say which stacked experts are no targets: of a MoE model they are nearly all of the weights."""
    stacks = [each for each in routes if each.role is Role.EXPERT_STACK and not each.is_target]
    if not stacks:
        return
    share = sum(each.place.numel for each in stacks) / sum(each.place.numel for each in routes)
    why = (
        "no target pattern matches them"
        if Role.EXPERT_STACK in settings.implementation.target_roles
        else f"the {settings.implementation.name} implementation cannot take them"
    )
    yield f"{len(stacks)} expert stacks such as {stacks[0].name} ({share:.0%} of the model) are no targets: {why}"
