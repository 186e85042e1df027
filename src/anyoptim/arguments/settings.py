"""Which value each hyperparameter gets, and where it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from anyoptim.arguments.overrides import GROUP_OPTIONS, Entry, Overrides
from anyoptim.arguments.parsing import (
    TRAINING_ARGUMENTS_FIELDS,
    accepted_keys,
    check,
    choose_implementation,
    read_items,
    typed,
)
from anyoptim.errors import OptimArgsError
from anyoptim.names.hyperparameters import ITS_OWN, REQUIRED, Hyperparameter
from anyoptim.names.spec import Implementation, OptimizerSpec

SHARED_BY_HYBRIDS = ("lr", "weight_decay")
"""What a hybrid's fallback takes over where it has no value of its own."""

CHANGEABLE_DEFAULTS = {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}
"""TrainingArguments' own defaults of the fields that may only apply once the user changed them."""


class Fields:
    """The fields of a ``TrainingArguments``, of any object with its field names, or of a mapping.

    Args:
        args: where to read them; ``None`` has none.
    """

    def __init__(self, args: object | None) -> None:
        self.args = args

    def get(self, name: str, default: object = None) -> object:
        """Return a field, or ``default`` where it is absent."""
        if isinstance(self.args, Mapping):
            return self.args.get(name, default)
        return getattr(self.args, name, default)

    def number(self, name: str) -> float | None:
        """Return a numeric field, or ``None`` where it is absent or no number."""
        value = self.get(name)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None


@dataclass(frozen=True)
class Setting:
    """The value of one hyperparameter and its source: default, TrainingArguments, optim_args or override."""

    value: object
    source: str


@dataclass(frozen=True)
class Settings:
    """The hyperparameters of one plan.

    Args:
        implementation: which one is built.
        values: a setting for every hyperparameter of it, in its order, and for the overrides of groups in use.
        overrides: what differs for single groups.
    """

    implementation: Implementation
    values: Mapping[str, Setting]
    overrides: Overrides

    def __getitem__(self, name: str) -> object:
        return self.values[name].value

    def get(self, name: str, default: object = None) -> object:
        """Return a hyperparameter's value, or ``default`` where the optimizer has none of that name."""
        return self.values[name].value if name in self.values else default

    def source(self, name: str) -> str | None:
        """Return where a hyperparameter's value came from; a fallback's may come from the other one's, by its name."""
        return self.values[name].source if name in self.values else None

    @property
    def in_backward(self) -> bool:
        """Whether parameters are updated inside the backward pass, by our facade or by the class itself."""
        return self.implementation.updates_in_backward or self.get("fused_backward") is True

    def number(self, name: str) -> float | None:
        """Return a hyperparameter that is a number, or ``None``."""
        value = self.get(name)
        return float(value) if isinstance(value, (int, float)) else None

    def of_scope(self, scope: str, prefix: str = "") -> dict[str, object]:
        """Return the values of the hyperparameters of one scope, by the optimizer's own names for them.

        Args:
            scope: see :class:`Hyperparameter`.
            prefix: what stands before its own names, and tells it from others of that scope.
        """
        return {
            each.name.removeprefix(prefix): self.values[each.name].value
            for each in self.implementation.hyperparameters
            if each.scope == scope and each.name.startswith(prefix) and self.values[each.name].value is not ITS_OWN
        }


def resolve(
    spec: OptimizerSpec,
    fields: Fields,
    optim_args: object,
    overrides: Mapping[str, object],
    config: object = None,
) -> Settings:
    """Decide every hyperparameter: overrides, then ``optim_args``, then fields of args, then the defaults.

    Args:
        spec: the optimizer.
        fields: TrainingArguments, or what stands for it.
        optim_args: text, mapping or ``None``.
        overrides: keywords of ``get_optimizer`` or ``plan``.
        config: the model's configuration, if it has one.

    Raises:
        OptimArgsError: a value is unknown, of the wrong type, out of range, or missing.
    """
    items = read_items(optim_args, spec.name)
    implementation = choose_implementation({**items, **overrides}, spec)
    values = {each.name: Setting(each.default, "default") for each in implementation.hyperparameters}
    layers = (
        ("model config", _taken(spec, implementation, "config", Fields(config))),
        ("TrainingArguments", _taken(spec, implementation, "args", fields)),
        ("TrainingArguments", _from_fields(spec, implementation, fields)),
        ("optim_args", typed(items, spec, implementation)),
        ("override", typed(overrides, spec, implementation)),
    )
    for source, layer in layers:
        for key, value in layer.items():
            if key in values:
                values[key] = Setting(value, source)
            elif key in GROUP_OPTIONS:
                if value is not None:
                    values[key] = Setting(value, source)
            elif key != "implementation":  # beta1, beta2: one element of betas
                betas, number = f"{key[:-1]}s", int(key[-1])
                values[betas] = Setting(_with_element(values[betas].value, number, value), source)
    for name in SHARED_BY_HYBRIDS:
        fallback = values.get(f"fallback_{name}")
        if fallback is not None and fallback.source == "default" and values[name].source != "default":
            values[f"fallback_{name}"] = Setting(values[name].value, name)
    for name, setting in values.items():
        if setting.value is REQUIRED:
            raise OptimArgsError(f"{spec.name} needs {name}: give it in optim_args, as '{name}=...'.")
    return Settings(implementation, values, _overrides(values, spec.name))


def _overrides(values: Mapping[str, Setting], optimizer: str) -> Overrides:
    given: dict[str, Any] = {name: values[name].value for name in GROUP_OPTIONS if name in values}
    entries = tuple(
        Entry(
            each["match"],
            {key: value for key, value in each.items() if key != "match"},
            f"{optimizer}: groups entry {number} ({each['match']!r})",
        )
        for number, each in enumerate(given.pop("groups", ()), start=1)
    )
    return Overrides(entries=entries, no_decay=tuple(given.pop("no_decay", ())), **given)


def _taken(spec: OptimizerSpec, implementation: Implementation, origin: str, fields: Fields) -> dict[str, object]:
    """Return the values of the hyperparameters that a field gives which is there and says something."""
    found: dict[str, object] = {}
    for each in implementation.hyperparameters:
        holder, _, field = each.taken_from.partition(".")
        if holder == origin and fields.get(field) not in (None, -1):
            found[each.name] = check(fields.get(field), each, spec.name, f"from {each.taken_from}")
    return found


def _from_fields(spec: OptimizerSpec, implementation: Implementation, fields: Fields) -> dict[str, object]:
    accepted = accepted_keys(implementation)
    found: dict[str, object] = {}
    warmup = warmup_steps(fields)
    for prefix, each in (("", spec), ("fallback_", spec.fallback)):
        if each is None:
            continue
        for field, key in _fields_that_apply(each, accepted, fields, prefix):
            found[key] = check(fields.get(field), accepted[key], spec.name, f"from TrainingArguments.{field}")
        # elsewhere the schedule warms up, and an optimizer's own warmup would do so again
        if each.traits.schedule_free and f"{prefix}warmup_steps" in accepted and warmup is not None:
            found[f"{prefix}warmup_steps"] = warmup
    return found


def _fields_that_apply(
    spec: OptimizerSpec, accepted: Mapping[str, Hyperparameter], fields: Fields, prefix: str
) -> Iterator[tuple[str, str]]:
    for field, name in TRAINING_ARGUMENTS_FIELDS.items():
        key = f"{prefix}{name}"
        if field not in fields or key not in accepted or (prefix and name in SHARED_BY_HYBRIDS):
            continue
        if field in CHANGEABLE_DEFAULTS:
            # an eps that is a pair, as Adafactor's and AdaLomo's, has another meaning
            is_number = isinstance(accepted[key].default, (int, float))
            # beside an Adam, they are that one's: Muon's eps is none of Adam's
            beside_adam = spec.fallback is not None and spec.fallback.traits.adam_fields
            changed = fields.get(field) != CHANGEABLE_DEFAULTS[field] and not beside_adam
            if not (is_number and (spec.traits.adam_fields or changed)):
                continue
        yield field, key


def warmup_steps(fields: Fields) -> int | float | None:
    """Return the warmup as steps; as a ratio below 1 while the number of training steps is unknown.

    transformers 5 holds a ratio in ``warmup_steps`` below 1, 4.57 in ``warmup_ratio``.
    """
    steps = fields.number("warmup_steps")
    ratio = fields.number("warmup_ratio")
    if steps is not None and steps >= 1:
        return int(steps)
    if steps:
        ratio = steps
    if not ratio:
        return None if steps is None else 0
    total = fields.number("max_steps")
    return ceil(total * ratio) if total is not None and total > 0 else ratio


def _with_element(betas: object, number: int, value: object) -> tuple[object, ...]:
    elements = list(betas) if isinstance(betas, (tuple, list)) else []
    elements[number - 1] = value
    return tuple(elements)
