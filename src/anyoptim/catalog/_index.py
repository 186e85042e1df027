"""Specs from an index: what a package's constructors take, read from the package once and committed as JSON.

``make catalogue`` writes the indexes (``tools/catalogue.py``), so listing imports no package. What cannot be read
from a signature stands in the package's own module, as :class:`Facts`.

Importing eleven packages to list their names takes ten seconds and runs strangers' code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from anyoptim.catalog._algorithms import Algorithm, algorithms
from anyoptim.catalog._held import held_between_steps
from anyoptim.catalog._keywords import hyperparameters_from
from anyoptim.names.composing import pair
from anyoptim.names.hyperparameters import WHERE_AND_WHEN, Hyperparameter, coupling
from anyoptim.names.spec import Implementation, OptimizerSpec, Traits
from anyoptim.names.unmade import Unmade

FOLDER = Path(__file__).parent / "index"

ACROSS = Path(__file__).parent / "across.json"
"""What ``make across`` has found by trying."""

NO_TRAITS = Traits()


@dataclass(frozen=True)
class Facts:
    """What is true of one name and stands in no signature.

    Args:
        name: its registered name, where that is a bare one; the name with the package before it is then an alias.
        aliases: further names.
        coupled: why its step on one parameter depends on others, so that it cannot update in the backward pass.
        traits: see :class:`Traits`.
        defaults: values of hyperparameters that differ from the constructor's.
        hyperparameters: fields of hyperparameters that differ from what the signature says.
        refused: keywords that cannot be set, with the reason.
        implementation: other fields of its :class:`Implementation`.
        added: hyperparameters that are no keywords of the constructor, such as keys of groups.
        fallback: the optimizer of what is no target.
    """

    name: str = ""
    aliases: tuple[str, ...] = ()
    coupled: str = ""
    traits: Traits = NO_TRAITS
    defaults: Mapping[str, object] = field(default_factory=dict)
    hyperparameters: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    implementation: Mapping[str, Any] = field(default_factory=dict)
    added: tuple[Hyperparameter, ...] = ()
    fallback: OptimizerSpec | None = None


Limits = Mapping[str, Mapping[str, str]]
"""For each check of the conformance kit: why some fail it, and their names as one text, ``*`` for all of a package."""


def indexed(
    module: str,
    *,
    licence: str,
    extra: str = "",
    facts: Mapping[str, Facts] = MappingProxyType({}),
    traits: Traits = NO_TRAITS,
    coupled: Mapping[str, str] = MappingProxyType({}),
    limits: Limits = MappingProxyType({}),
    unsteady: Limits = MappingProxyType({}),
    refused_everywhere: Mapping[str, str] = MappingProxyType({}),
    extra_keywords: Mapping[Hyperparameter, str] = MappingProxyType({}),
    **fields: object,
) -> tuple[Unmade, ...]:
    """Return the names of a package, each with what makes its spec.

    Args:
        module: the package's module, the prefix of its names and the name of its index.
        licence: the SPDX name of its licence.
        extra: the extra of anyoptim that installs it; empty for a core dependency.
        facts: by the package's own names; those that need none are left out.
        traits: of those whose facts give none.
        coupled: why a step on one parameter depends on others, and the names of those of which that is true.
        limits: which checks some names fail, and why.
        unsteady: which checks they fail on some machines.
        refused_everywhere: keywords that cannot be set for any of them, with the reason.
        extra_keywords: what constructors take without naming it, and the names of those which do.
        fields: of every :class:`Implementation` of the package.

    Raises:
        KeyError: facts about a name that the index does not have.
    """
    index = read_index(module)
    entries: Mapping[str, Any] = index["optimizers"]
    coupled_names = {own: reason for reason, names in coupled.items() for own in names.split()}
    limits_of, unsteady_of = _by_name(limits, entries), _by_name(unsteady, entries)
    added = {own: [each for each, names in extra_keywords.items() if own in names.split()] for own in entries}
    extra_names = {own for names in extra_keywords.values() for own in names.split()}
    unknown = (
        extra_names | facts.keys() | coupled_names.keys() | limits_of.keys() | unsteady_of.keys()
    ) - entries.keys()
    if unknown:
        raise KeyError(f"{module} has no {sorted(unknown)[0]}")
    shared = {"licence": licence, "extra": extra, "package": index["package"], **fields}

    def unmade(own: str) -> Unmade:
        path, each = f"{module}/{own}", facts.get(own, Facts(traits=traits))
        each = replace(
            each,
            coupled=each.coupled or coupled_names.get(own, ""),
            refused={**refused_everywhere, **each.refused},
            aliases=(*((path,) if each.name else ()), *each.aliases),
            added=(*added[own], *each.added),
        )
        of_all = {**shared, "limits": limits_of.get(own, {}), "unsteady": unsteady_of.get(own, {})}
        return Unmade(each.name or path, partial(_spec, path, own, entries[own], each, of_all), each.aliases)

    return tuple(map(unmade, entries))


def _by_name(limits: Limits, every: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return each name's own: its checks, with the reason."""
    found: dict[str, dict[str, str]] = {}
    for check, reasons in limits.items():
        for reason, names in reasons.items():
            for own in every if names == "*" else names.split():
                found.setdefault(own, {})[check] = reason
    return found


def read_index(module: str) -> Mapping[str, Any]:
    """Return a package's index: its distribution, version, and the constructors by name."""
    index: Mapping[str, Any] = json.loads((FOLDER / f"{module}.json").read_text(encoding="utf-8"))
    return index


@lru_cache(maxsize=1)
def ways_across() -> Mapping[str, Any]:
    """Return how names step on parameters that several processes share, where not as they are; see ``across.json``."""
    found: Mapping[str, Iterable[str]] = json.loads(ACROSS.read_text(encoding="utf-8"))
    return {path: way for way, paths in found.items() for path in paths}


def _spec(path: str, own: str, entry: Mapping[str, Any], facts: Facts, shared: Mapping[str, object]) -> OptimizerSpec:
    algorithm = algorithms().get(path) or algorithms().get(own) or Algorithm(own)
    differs = {name: {"default": default} for name, default in facts.defaults.items()}
    for keyword, others in facts.hyperparameters.items():
        differs[keyword] = {**others, **differs.get(keyword, {})}
    hyperparameters = [
        replace(each, **differs[each.name]) if each.name in differs else each  # type: ignore[arg-type]  # fields by name
        for each in hyperparameters_from(entry["hyperparameters"])
        if each.name not in facts.refused
    ]
    hyperparameters += facts.added
    unsupported = {}
    coupled = "its step evaluates the loss again" if facts.traits.needs_closure else facts.coupled
    if coupled:
        unsupported = coupling(coupled)
    else:
        hyperparameters += WHERE_AND_WHEN
    fields: dict[str, Any] = {
        "name": "upstream",
        "target": entry["class"],
        "hyperparameters": tuple(hyperparameters),
        "refused": facts.refused,
        "unsupported": unsupported,
        "across": ways_across().get(path, ""),
        **held_between_steps(path),
        **shared,
        **facts.implementation,
    }
    name = facts.name or path
    spec = OptimizerSpec(
        name=name,
        summary=algorithm.summary,
        implementations=(Implementation(**fields),),
        traits=facts.traits,
        paper=algorithm.paper,
        usual_lr=algorithm.usual_lr,
        aliases=facts.aliases,
    )
    return pair(spec, facts.fallback, name) if facts.fallback else spec
