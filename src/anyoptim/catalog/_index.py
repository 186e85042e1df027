"""Specs from an index: what a package's constructors take, read from the package once and committed as JSON.

``make catalogue`` writes the indexes (``tools/catalogue.py``), so listing imports no package. What cannot be read
from a signature stands in the package's own module, as :class:`Facts`.

Importing eleven packages to list their names takes ten seconds and runs strangers' code. Annotations are a few words
there (``["union", "float", "none"]``), so that nothing is evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Union

from anyoptim.catalog._algorithms import Algorithm, algorithms
from anyoptim.catalog._shared import DECAY, FRACTION, NON_NEGATIVE, NON_POSITIVE, POSITIVE
from anyoptim.names.composing import pair
from anyoptim.names.hyperparameters import FUSED_BACKWARD, ITS_OWN, REQUIRED, Hyperparameter, Interval
from anyoptim.names.spec import Implementation, OptimizerSpec, Traits
from anyoptim.names.unmade import Unmade

FOLDER = Path(__file__).parent / "index"
_ITS_OWN = "its own"

_TYPES: dict[str, object] = {
    "float": float,
    "int": int,
    "bool": bool,
    "str": str,
    "none": type(None),
    "any": None,
    "dtype": "torch.dtype",
    "function": Callable[..., object],
    "...": ...,
}

_MEANINGS: dict[str, tuple[str, Interval | None]] = {
    "lr": ("learning rate", NON_NEGATIVE),
    "betas": ("decay rates of the moment estimates", DECAY),
    "eps": ("added to the denominator", NON_NEGATIVE),
    "weight_decay": ("weight decay", NON_NEGATIVE),
    "momentum": ("momentum factor", DECAY),
    "dampening": ("dampening of the momentum", FRACTION),
    "nesterov": ("Nesterov momentum", None),
    "amsgrad": ("keep the maximum of the second moment", None),
    "ams_bound": ("keep the maximum of the second moment", None),
    "maximize": ("ascend instead of descend", None),
    "foreach": ("update all tensors in batched calls", None),
    "fused": ("one kernel for the whole update", None),
    "capturable": ("safe to capture in a CUDA graph", None),
    "differentiable": ("let autograd record the step", None),
    "weight_decouple": ("decoupled weight decay", None),
    "decoupled_decay": ("decoupled weight decay", None),
    "decouple_wd": ("decoupled weight decay", None),
    "decoupled_weight_decay": ("decoupled weight decay", None),
    "corrected_weight_decay": ("weight decay relative to the highest learning rate", None),
    "fixed_decay": ("weight decay that does not scale with the learning rate", None),
    "decouple_lr": ("weight decay that does not scale with the learning rate", None),
    "max_lr": ("peak learning rate, for decouple_lr", POSITIVE),
    "kahan_sum": ("Kahan summation for low-precision weights", None),
    "triton": ("Triton kernels; none: where possible", None),
    "caution": ("drop what goes against the gradient's sign", None),
    "cautious": ("drop what goes against the gradient's sign", None),
    "cautious_weight_decay": ("decay only where it agrees with the update's sign", None),
    "trust_clip": ("no trust ratio above 1", None),
    "warmup_steps": ("steps of the optimizer's own warmup", NON_NEGATIVE),
    "clip_threshold": ("RMS at which an update is clipped", POSITIVE),
    "max_grad_norm": ("norm to clip gradients at", NON_NEGATIVE),
    "optim_bits": ("bits of a moment", None),
    "min_8bit_size": ("elements below which a moment stays in 32 bits", NON_NEGATIVE),
    "is_paged": ("page the state to the CPU's memory when the GPU's is full", None),
    "percentile_clipping": ("clip at this percentile of the last 100 gradient norms; 100: off", None),
    "block_size": ("elements that share a scale", POSITIVE),
    "bf16_stochastic_round": ("round bfloat16 weights stochastically", None),
    "rank": ("rank of the projected gradient", None),
    "ns_steps": ("Newton-Schulz iterations", Interval(low=1, high=99)),
    "r": ("power of the step in the average's weights", None),
    "weight_lr_power": ("power of the learning rate in the average's weights", None),
    "precondition_frequency": ("steps between new preconditioners", POSITIVE),
    "d0": ("first estimate of the distance to the solution", POSITIVE),
    "d_coef": ("factor of the estimated step size", POSITIVE),
    "growth_rate": ("limit of the estimate's growth in a step", None),
    "alpha": ("smoothing constant or mixing factor", None),
    "rho": ("radius or decay rate", None),
}


_RANGES: dict[str, Interval] = {
    name: within
    for within, names in {
        DECAY: (
            "adamw_betas betas_1d beta beta0 beta1 beta2 beta3 shampoo_beta lower_bound_beta grafting_beta"
            " momentum_beta alignment_ema ema_rate compression_decay"
        ),
        NON_NEGATIVE: (
            "adamw_lr adamw_wd adamw_eps lr_1d lr_1d_factor weight_decay_1d eps1 eps2 eps_2 eps_scale matrix_eps"
            " diagonal_eps lr_decay initial_accumulator_value"
        ),
        NON_POSITIVE: "decay_rate beta2_decay",
    }.items()
    for name in names.split()
}
"""Of names that need no explanation. A package whose own default is outside means another thing by the name."""


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


def _spec(path: str, own: str, entry: Mapping[str, Any], facts: Facts, shared: Mapping[str, object]) -> OptimizerSpec:
    algorithm = algorithms().get(path) or algorithms().get(own) or Algorithm(own)
    hyperparameters = [
        replace(each, **facts.hyperparameters.get(each.name, {}))  # type: ignore[arg-type]  # fields by their names
        for each in _hyperparameters(entry["hyperparameters"])
        if each.name not in facts.refused
    ]
    hyperparameters = [replace(each, default=facts.defaults.get(each.name, each.default)) for each in hyperparameters]
    hyperparameters += facts.added
    unsupported = {}
    coupled = "its step evaluates the loss again" if facts.traits.needs_closure else facts.coupled
    if coupled:
        unsupported["fused_backward"] = coupled
    else:
        hyperparameters.append(FUSED_BACKWARD)
    fields: dict[str, Any] = {
        "name": "upstream",
        "target": entry["class"],
        "hyperparameters": tuple(hyperparameters),
        "refused": facts.refused,
        "unsupported": unsupported,
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


def _hyperparameters(rows: list[list[Any]]) -> Iterator[Hyperparameter]:
    for name, kind, *default in rows:
        meaning, within = _MEANINGS.get(name, ("", _RANGES.get(name)))
        own = _default(default, kind)
        fits = within is not None and within.outside(own) is None
        yield Hyperparameter(name, decoded(kind), own, meaning, within if fits else None)


def _default(given: list[Any], kind: object) -> object:
    if not given:
        return REQUIRED
    value = given[0]
    if value == {_ITS_OWN: True}:
        return ITS_OWN
    return _tuples(value) if not (isinstance(kind, list) and kind[0] == "list") else value


def _tuples(value: object) -> object:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def decoded(kind: Any) -> object:
    """Return the annotation that an index holds as text or as a list."""
    if isinstance(kind, str):
        return _TYPES[kind]
    name, *arguments = kind
    if name == "literal":
        return Literal[tuple(arguments)]
    inner = tuple(decoded(each) for each in arguments)
    if name == "union":
        return Union[inner]  # noqa: UP007  # of as many as there are
    return tuple[inner] if name == "tuple" else list[inner[0]]  # type: ignore[valid-type]  # made here


def encoded_default(value: object) -> object:
    """Return a default as JSON can hold it; what is no plain value stands for itself."""
    if isinstance(value, (tuple, list)):
        return [encoded_default(each) for each in value]
    if isinstance(value, bool) or value is None or type(value) is str:
        return value
    if isinstance(value, (int, float)):  # an IntEnum, too
        return float(value) if isinstance(value, float) else int(value)
    return {_ITS_OWN: True}
