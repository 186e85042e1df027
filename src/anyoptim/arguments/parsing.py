"""``optim_args`` text, JSON or mapping to typed keyword arguments. Nothing is ever evaluated as code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from anyoptim.arguments.keys import TRAINING_ARGUMENTS_FIELDS, Key, group_keys, keys_of, options_of
from anyoptim.arguments.limits import refuse_excess
from anyoptim.arguments.overrides import read_entries, read_patterns
from anyoptim.arguments.splitting import split_outside_brackets
from anyoptim.arguments.values import check, convert
from anyoptim.errors import OptimArgsError, UnsupportedError, did_you_mean
from anyoptim.names.hyperparameters import REQUIRED
from anyoptim.names.lookup import optimizer_info
from anyoptim.names.spec import Implementation, OptimizerSpec
from anyoptim.text import read_json, said, shortened

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
    accepted = keys_of(implementation)
    result: dict[str, object] = {}
    for name, value in given.items():
        if name == "implementation":
            result[name] = implementation.name
        elif name == "groups" and name in accepted:
            result[name] = read_entries(value, group_keys(implementation), spec.name)
        elif name in accepted:
            result[name] = check(value, accepted[name].value, spec.name)
            if name == "no_decay" and result[name] is not None:
                result[name] = list(read_patterns(result[name], f"{spec.name}: no_decay"))
        elif name in implementation.refused:
            raise OptimArgsError(f"{spec.name}: {name} cannot be set: {implementation.refused[name]}.")
        elif name in implementation.unsupported:
            raise UnsupportedError(f"{spec.name} does not support {name}: {implementation.unsupported[name]}.")
        else:
            raise OptimArgsError(_unknown_key(name, spec, implementation, accepted))
    for name, key in accepted.items():
        if key.element is not None and name in result and key.sets in result:
            raise OptimArgsError(f"{spec.name}: {key.sets} and {name} both set the same value; give one.")
    return result


def read_items(text: object, spec_name: str) -> dict[str, object]:
    """Split ``optim_args`` into keys and raw values; values of text stay text."""
    if text is None:
        return {}
    if isinstance(text, Mapping):
        for key, value in text.items():
            if not isinstance(key, str):
                raise OptimArgsError(f"{spec_name}: optim_args has the key {shortened(key)}, which is no name.")
            refuse_excess({key: value}, f"{spec_name}: optim_args {shortened(key)}")
        return dict(text)
    if not isinstance(text, str):
        raise OptimArgsError(
            f"{spec_name}: optim_args must be text such as 'eps=1e-6', a JSON object or a mapping, not"
            f" {shortened(text)}."
        )
    refuse_excess(text, f"{spec_name}: optim_args")
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
            close = did_you_mean(key.strip(), keys_of(optimizer_info(spec_name).default))
            raise OptimArgsError(
                f"{spec_name}: optim_args has {shortened(item)}, which is not of the form key=value.{close}"
            )
        pairs.append((key.strip(), value.strip()))
    if entries:
        pairs.append(("groups", [_without_repeats(each, spec_name) for each in entries.values()]))
    return _without_repeats(pairs, spec_name)


def _unknown_key(key: str, spec: OptimizerSpec, implementation: Implementation, accepted: Mapping[str, Key]) -> str:
    alias = TRAINING_ARGUMENTS_FIELDS.get(key, "")
    close = f" Did you mean {alias!r}?" if alias in accepted else did_you_mean(key, [*accepted, "implementation"])
    listing = ", ".join(
        f"{each.name}={'...' if each.default is REQUIRED else each.default}"
        for each in implementation.hyperparameters
        if each.scope != "facade"
    )
    around = [each.name for each in implementation.hyperparameters if each.scope == "facade"]
    also = [*around, *(each.name for each in options_of(implementation))]
    meant = any(close.startswith(f" Did you mean {each!r}") for each in also)
    takes = "" if meant else f" It takes: {listing}."
    options = f" Settings: {', '.join(also)}." if also and (meant or not close) else ""
    return f"{spec.name} has no hyperparameter {shortened(key)}.{close}{takes}{options}"


def _read_json(text: str, spec_name: str) -> dict[str, object]:
    try:
        loaded = read_json(text, lambda pairs: _without_repeats(pairs, spec_name))
    except OptimArgsError:
        raise
    except ValueError as error:
        raise OptimArgsError(f"{spec_name}: optim_args is no valid JSON object: {said(error)}.") from error
    return read_items(loaded, spec_name)


def _without_repeats(pairs: Iterable[tuple[str, object]], spec_name: str) -> dict[str, object]:
    result: dict[str, object] = {}
    pairs = list(pairs)
    for key, value in pairs:
        if key in result:
            entry = f", in the groups entry {shortened(dict(pairs)['match'])}" if "match" in dict(pairs) else ""
            raise OptimArgsError(f"{spec_name}: optim_args gives {shortened(key)} twice{entry}.")
        result[key] = value
    return result
