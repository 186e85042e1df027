"""The keys that ``optim_args`` may hold for an implementation, and what each of them sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from anyoptim.arguments.overrides import GROUP_OPTIONS
from anyoptim.names.hyperparameters import MONITOR, Hyperparameter
from anyoptim.names.spec import Implementation

TRAINING_ARGUMENTS_FIELDS = {
    "learning_rate": "lr",
    "weight_decay": "weight_decay",
    "adam_beta1": "beta1",
    "adam_beta2": "beta2",
    "adam_epsilon": "eps",
}
"""Fields of TrainingArguments and the hyperparameter, or element of ``betas``, that each one is."""


@dataclass(frozen=True)
class Key:
    """One key of ``optim_args``.

    Args:
        value: what its value must be, under the name that the key has.
        sets: the hyperparameter that it sets.
        element: the element of that hyperparameter, where it sets only one: 0 for ``beta1``.
    """

    value: Hyperparameter
    sets: str
    element: int | None = None


def options_of(implementation: Implementation) -> tuple[Hyperparameter, ...]:
    """Return what is taken beside the hyperparameters of a spec; what nobody sets is in no settings."""
    return (*(GROUP_OPTIONS.values() if implementation.takes_groups else ()), MONITOR)


def keys_of(implementation: Implementation) -> dict[str, Key]:
    """Return every key by its name: options, ``beta1`` and ``beta2``, hyperparameters."""
    options = options_of(implementation)
    whole = [Key(each, each.name) for each in (*options, *implementation.hyperparameters)]
    keys = [*whole[: len(options)], *_elements(implementation), *whole[len(options) :]]
    return {each.value.name: each for each in keys}


def _elements(implementation: Implementation) -> Iterator[Key]:
    """Yield ``beta1``, ``beta2``, … for the elements of ``betas``, unless these are hyperparameters themselves."""
    names = {each.name for each in implementation.hyperparameters}
    for each in implementation.hyperparameters:
        if each.keyword != "betas" or not isinstance(each.default, tuple):
            continue
        for index, default in enumerate(each.default):
            name, keyword = (f"{betas[:-1]}{index + 1}" for betas in (each.name, each.keyword))
            if name not in names:
                of_one = f"element {index + 1} of {each.name}"
                element = replace(each, name=name, type=float, default=default, help=of_one, keyword=keyword)
                yield Key(element, each.name, index)


def by_member(keys: Mapping[str, Key]) -> dict[tuple[str, str], Hyperparameter]:
    """Return what each key takes, by the member of a hybrid that takes it and its name there."""
    return {(key.value.member, key.value.keyword): key.value for key in keys.values()}


def group_keys(implementation: Implementation) -> dict[str, Hyperparameter]:
    """Return what single groups may set: of a hybrid, the hyperparameters of both optimizers by their own names."""
    keys = {each.name: each for each in implementation.hyperparameters if each.scope in ("optimizer", "target")}
    for each in implementation.hyperparameters:
        if each.scope == "fallback":
            keys.setdefault(each.keyword, replace(each, name=each.keyword))
    return keys
