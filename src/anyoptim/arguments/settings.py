"""Which value each hyperparameter gets, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anyoptim.arguments.fields import (
    SHARED_BY_HYBRIDS,
    Fields,
    named_by_hyperparameters,
    of_training_arguments,
)
from anyoptim.arguments.keys import keys_of
from anyoptim.arguments.overrides import GROUP_OPTIONS, Overrides
from anyoptim.arguments.parsing import choose_implementation, read_items, typed
from anyoptim.errors import OptimArgsError
from anyoptim.names.hyperparameters import ITS_OWN, REQUIRED, Scope
from anyoptim.names.spec import Implementation, OptimizerSpec


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

    def of_scope(self, scope: Scope, member: str | None = None) -> dict[str, object]:
        """Return the values of the hyperparameters of one scope, by the optimizer's own names for them.

        Args:
            scope: see :class:`Hyperparameter`.
            member: whose; of all in that scope if ``None``.
        """
        return {
            each.keyword: self.values[each.name].value
            for each in self.implementation.hyperparameters
            if each.scope == scope and member in (None, each.member) and self.values[each.name].value is not ITS_OWN
        }

    def of_fallback(self, keyword: str) -> Setting | None:
        """Return what a hybrid's fallback gets for one of its keywords; ``None`` where there is no such thing."""
        for each in self.implementation.hyperparameters:
            if each.scope == "fallback" and each.keyword == keyword:
                return self.values[each.name]
        return None


def resolve(
    spec: OptimizerSpec,
    fields: Fields,
    optim_args: object,
    overrides: Mapping[str, object],
    config: object = None,
) -> Settings:
    """Decide every hyperparameter: the last source in the table below that gives a value wins.

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
    keywords = read_items(overrides, spec.name)
    implementation = choose_implementation({**items, **keywords}, spec)
    keys = keys_of(implementation)
    precedence = (
        ("default", {each.name: each.default for each in implementation.hyperparameters}),
        ("model config", named_by_hyperparameters(spec, implementation, "config", Fields(config))),
        ("TrainingArguments", named_by_hyperparameters(spec, implementation, "args", fields)),
        ("TrainingArguments", of_training_arguments(spec, keys, fields)),
        ("optim_args", typed(items, spec, implementation)),
        ("override", typed(keywords, spec, implementation)),
    )
    values: dict[str, Setting] = {}
    for source, given in precedence:
        for name, value in given.items():
            if name == "implementation" or (value is None and name in GROUP_OPTIONS and name not in values):
                continue
            key = keys[name]
            whole = value if key.element is None else _with_element(values[key.sets].value, key.element, value)
            values[key.sets] = Setting(whole, source)
    _share(implementation, values)
    for name, setting in values.items():
        if setting.value is REQUIRED:
            raise OptimArgsError(f"{spec.name} needs {name}: give it in optim_args, as '{name}=...'.")
    overridden = {name: values[name].value for name in GROUP_OPTIONS if name in values}
    return Settings(implementation, values, Overrides.of(overridden, spec.name))


def _share(implementation: Implementation, values: dict[str, Setting]) -> None:
    """Let a hybrid's fallback take over the other one's rate and decay where it has none of its own."""
    for each in implementation.hyperparameters:
        if each.scope == "fallback" and each.keyword in SHARED_BY_HYBRIDS and values[each.name].source == "default":
            own = values.get(each.keyword)
            if own is not None and own.source != "default":
                values[each.name] = Setting(own.value, each.keyword)


def _with_element(betas: object, index: int, value: object) -> tuple[object, ...]:
    elements = list(betas) if isinstance(betas, (tuple, list)) else []
    elements[index] = value
    return tuple(elements)
