"""``optim_args`` text, JSON or mapping to typed keyword arguments. Nothing is ever evaluated as code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from numbers import Real
from typing import Literal

from anyoptim.arguments.overrides import GROUP_OPTIONS, read_entries, read_patterns
from anyoptim.arguments.values import common_type, convert, split_outside_brackets
from anyoptim.errors import OptimArgsError, UnsupportedError, did_you_mean
from anyoptim.names.hyperparameters import REQUIRED, Hyperparameter
from anyoptim.names.registry import optimizer_info
from anyoptim.names.spec import Implementation, OptimizerSpec

TRAINING_ARGUMENTS_FIELDS = {
    "learning_rate": "lr",
    "weight_decay": "weight_decay",
    "adam_beta1": "beta1",
    "adam_beta2": "beta2",
    "adam_epsilon": "eps",
}
"""Fields of TrainingArguments and the hyperparameter, or element of ``betas``, that each one is."""

_OVERRIDE = re.compile(r"(?P<match>.+)@(?P<key>\w+)\s*=(?P<value>.*)", re.DOTALL)


def parse_optim_args(text: str | Mapping[str, object] | None, name: str) -> dict[str, object]:
    """Read ``optim_args`` for one optimizer into typed keyword arguments.

    Args:
        text: ``key=value`` separated by commas; or a JSON object as text; or a mapping. Values are int,
            float, bool (``true/false/yes/no/on/off/1/0``), ``none``, tuples and lists ``(0.9,0.95)``, dtypes
            (``bfloat16``), quoted or bare strings. ``implementation=`` picks one of the spec's.
            ``regex@key=value`` is for the parameters whose name the regex finds: an item of ``groups``.
        name: the optimizer, whose hyperparameters say what each value must be. ``beta1=`` and ``beta2=``
            stay single keys and set one element of ``betas`` when the optimizer is built.

    Raises:
        OptimArgsError: malformed text, an unknown or repeated key, a wrong type, a value out of range.
        UnknownOptimizerError: no such optimizer.
    """
    spec = optimizer_info(name)
    given = read_items(text, spec.name)
    return typed(given, spec, choose_implementation(given, spec))


def choose_implementation(given: Mapping[str, object], spec: OptimizerSpec) -> Implementation:
    """Return the implementation that ``implementation=`` names, or the default one."""
    if "implementation" not in given:
        return spec.default
    names = tuple(each.name for each in spec.implementations)
    chosen = convert(given["implementation"], Literal[names], f"{spec.name}: implementation")
    return spec.implementations[names.index(str(chosen))]


def typed(given: Mapping[str, object], spec: OptimizerSpec, implementation: Implementation) -> dict[str, object]:
    """Check keys, types and ranges of ``given`` against an implementation's hyperparameters.

    Raises:
        OptimArgsError: names the key, what it must be, and for an unknown one the close and the valid keys.
        UnsupportedError: a key that would train wrongly here, with the reason.
    """
    accepted = accepted_keys(implementation)
    result: dict[str, object] = {}
    for key, value in given.items():
        if key == "implementation":
            result[key] = implementation.name
        elif key == "groups" and key in accepted:
            entries = read_entries(value, _group_keys(implementation), check, spec.name)
            result[key] = [{"match": each.match, **each.values} for each in entries]
        elif key in accepted:
            result[key] = check(value, accepted[key], spec.name)
            if key == "no_decay" and result[key] is not None:
                result[key] = list(read_patterns(result[key], f"{spec.name}: no_decay"))
        elif key in implementation.refused:
            raise OptimArgsError(f"{spec.name}: {key} cannot be set: {implementation.refused[key]}.")
        elif key in implementation.unsupported:
            raise UnsupportedError(f"{spec.name} does not support {key}: {implementation.unsupported[key]}.")
        else:
            raise OptimArgsError(_unknown_key(key, spec, implementation, accepted))
    for element in _betas_elements(implementation):
        betas = element.name.rstrip("0123456789") + "s"
        if element.name in result and betas in result:
            raise OptimArgsError(f"{spec.name}: {betas} and {element.name} both set the same value; give one.")
    return result


def accepted_keys(implementation: Implementation) -> dict[str, Hyperparameter]:
    """Return every key ``optim_args`` may hold, with ``beta1``, ``beta2`` for the elements of ``betas``."""
    own = {each.name: each for each in implementation.hyperparameters}
    options = GROUP_OPTIONS if implementation.takes_groups else {}
    return {**options, **{each.name: each for each in _betas_elements(implementation)}, **own}


def _group_keys(implementation: Implementation) -> dict[str, Hyperparameter]:
    """Return what single groups may set: of a hybrid, the hyperparameters of both optimizers by their own names."""
    own = {each.name: each for each in implementation.hyperparameters if each.scope in ("optimizer", "target")}
    for each in implementation.hyperparameters:
        if each.scope == "fallback":
            name = each.name.removeprefix("fallback_")
            own.setdefault(name, replace(each, name=name))
    return own


def check(value: object, hyperparameter: Hyperparameter, spec_name: str, origin: str = "") -> object:
    """Return ``value`` in the hyperparameter's type, or raise an ``OptimArgsError`` that names it."""
    label = f"{spec_name}: {hyperparameter.name}{f' ({origin})' if origin else ''}"
    annotation = hyperparameter.type
    if annotation is None and hyperparameter.default not in (None, REQUIRED):
        annotation = common_type(hyperparameter.default)
    converted = convert(value, annotation, label)
    if hyperparameter.within is not None:
        for number in converted if isinstance(converted, (tuple, list)) else (converted,):
            if isinstance(number, Real) and float(number) not in hyperparameter.within:
                raise OptimArgsError(f"{label} must be {hyperparameter.within}, not {number}.")
    return converted


def read_items(text: object, spec_name: str) -> dict[str, object]:
    """Split ``optim_args`` into keys and raw values; values of text stay text."""
    if text is None:
        return {}
    if isinstance(text, Mapping):
        for key in text:
            if not isinstance(key, str):
                raise OptimArgsError(f"{spec_name}: optim_args has the key {key!r}, which is no name.")
        return dict(text)
    if not isinstance(text, str):
        raise OptimArgsError(
            f"{spec_name}: optim_args must be text such as 'eps=1e-6', a JSON object or a mapping, not {text!r}."
        )
    if text.strip().startswith("{"):
        return _read_json(text, spec_name)
    pairs: list[tuple[str, object]] = []
    entries: dict[str, list[tuple[str, object]]] = {}
    for item in split_outside_brackets(text, f"{spec_name}: optim_args"):
        key, equals, value = item.partition("=")
        override = None if key.strip().isidentifier() else _OVERRIDE.fullmatch(item)
        if override and override["value"].strip():
            match = override["match"].strip()
            entries.setdefault(match, [("match", match)]).append((override["key"], override["value"].strip()))
            continue
        if not equals or not key.strip() or not value.strip():
            raise OptimArgsError(f"{spec_name}: optim_args has {item!r}, which is not of the form key=value.")
        pairs.append((key.strip(), value.strip()))
    if entries:
        pairs.append(("groups", [_without_repeats(each, spec_name) for each in entries.values()]))
    return _without_repeats(pairs, spec_name)


def _unknown_key(
    key: str, spec: OptimizerSpec, implementation: Implementation, accepted: Mapping[str, Hyperparameter]
) -> str:
    alias = TRAINING_ARGUMENTS_FIELDS.get(key, "")
    close = f" Did you mean {alias!r}?" if alias in accepted else did_you_mean(key, [*accepted, "implementation"])
    listing = ", ".join(
        f"{each.name}={'...' if each.default is REQUIRED else each.default}" for each in implementation.hyperparameters
    )
    options = f" Every optimizer takes: {', '.join(GROUP_OPTIONS)}." if implementation.takes_groups else ""
    return f"{spec.name} has no hyperparameter {key!r}.{close} It takes: {listing}.{options}"


def _betas_elements(implementation: Implementation) -> list[Hyperparameter]:
    names = {each.name for each in implementation.hyperparameters}
    return [
        Hyperparameter(f"{each.name[:-1]}{number}", float, default, f"element {number} of {each.name}", each.within)
        for each in implementation.hyperparameters
        if each.name in ("betas", "fallback_betas") and isinstance(each.default, tuple)
        for number, default in enumerate(each.default, start=1)
        if f"{each.name[:-1]}{number}" not in names
    ]


def _read_json(text: str, spec_name: str) -> dict[str, object]:
    try:
        loaded = json.loads(text, object_pairs_hook=lambda pairs: _without_repeats(pairs, spec_name))
    except json.JSONDecodeError as error:
        raise OptimArgsError(f"{spec_name}: optim_args is no valid JSON object: {error}.") from error
    except (RecursionError, ValueError) as error:
        if isinstance(error, OptimArgsError):
            raise
        raise OptimArgsError(f"{spec_name}: optim_args is no JSON object that can be read.") from error
    return dict(loaded)


def _without_repeats(pairs: Iterable[tuple[str, object]], spec_name: str) -> dict[str, object]:
    result: dict[str, object] = {}
    pairs = list(pairs)
    for key, value in pairs:
        if key in result:
            entry = f", in the groups entry {dict(pairs)['match']!r}" if "match" in dict(pairs) else ""
            raise OptimArgsError(f"{spec_name}: optim_args gives {key!r} twice{entry}.")
        result[key] = value
    return result
