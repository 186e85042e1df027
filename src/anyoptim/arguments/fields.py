"""What TrainingArguments, or whatever has its fields, and a model's configuration say of hyperparameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil, isfinite
from numbers import Real

from anyoptim.arguments.keys import TRAINING_ARGUMENTS_FIELDS, Key, by_member
from anyoptim.arguments.values import check
from anyoptim.errors import OptimArgsError
from anyoptim.names.hyperparameters import Hyperparameter, as_float
from anyoptim.names.spec import Implementation, OptimizerSpec
from anyoptim.text import shortened

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
        return as_float(value) if isinstance(value, Real) and not isinstance(value, bool) else None

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None


def named_by_hyperparameters(
    spec: OptimizerSpec, implementation: Implementation, origin: str, fields: Fields
) -> dict[str, object]:
    """Return the values of the hyperparameters whose ``taken_from`` names a field that is there and says something.

    Args:
        spec: the optimizer.
        implementation: one of its.
        origin: ``"args"`` or ``"config"``, what ``fields`` are of.
        fields: TrainingArguments, or the model's configuration.
    """
    found: dict[str, object] = {}
    for each in implementation.hyperparameters:
        holder, _, field = each.taken_from.partition(".")
        if holder == origin and fields.get(field) not in (None, -1):
            found[each.name] = check(fields.get(field), each, spec.name, f"from {each.taken_from}")
    return found


def of_training_arguments(spec: OptimizerSpec, keys: Mapping[str, Key], fields: Fields) -> dict[str, object]:
    """Return what the fields of TrainingArguments that every optimizer knows say, by key.

    Args:
        spec: the optimizer.
        keys: what its implementation takes.
        fields: TrainingArguments.
    """
    accepted = by_member(keys)
    found: dict[str, object] = {}
    warmup = warmup_steps(fields)
    for member, each in (("", spec), *(((spec.fallback.name, spec.fallback),) if spec.fallback else ())):
        for field, value in _that_apply(each, member, accepted, fields):
            found[value.name] = check(fields.get(field), value, spec.name, f"from TrainingArguments.{field}")
        # elsewhere the schedule warms up, and an optimizer's own warmup would do so again
        own_warmup = accepted.get((member, "warmup_steps"))
        if each.traits.schedule_free and own_warmup is not None and warmup is not None:
            found[own_warmup.name] = warmup
    return found


def _that_apply(
    spec: OptimizerSpec, member: str, accepted: Mapping[tuple[str, str], Hyperparameter], fields: Fields
) -> Iterator[tuple[str, Hyperparameter]]:
    for field, keyword in TRAINING_ARGUMENTS_FIELDS.items():
        value = accepted.get((member, keyword))
        if field not in fields or value is None or (member and keyword in SHARED_BY_HYBRIDS):
            continue
        if field in CHANGEABLE_DEFAULTS:
            # an eps that is a pair, as Adafactor's and AdaLomo's, has another meaning
            is_number = isinstance(value.default, (int, float))
            # beside an Adam, they are that one's: Muon's eps is none of Adam's
            beside_adam = spec.fallback is not None and spec.fallback.traits.adam_fields
            changed = fields.get(field) != CHANGEABLE_DEFAULTS[field] and not beside_adam
            if not (is_number and (spec.traits.adam_fields or changed)):
                continue
        yield field, value


def _finite(fields: Fields, name: str) -> float | None:
    number = fields.number(name)
    if number is not None and not isfinite(number):
        raise OptimArgsError(f"TrainingArguments.{name} must be a finite number, not {shortened(fields.get(name))}.")
    return number


def warmup_steps(fields: Fields) -> int | float | None:
    """Return the warmup as steps; as a ratio below 1 while the number of training steps is unknown.

    transformers 5 holds a ratio in ``warmup_steps`` below 1, 4.57 in ``warmup_ratio``.
    """
    steps, ratio, total = (_finite(fields, name) for name in ("warmup_steps", "warmup_ratio", "max_steps"))
    if steps is not None and steps >= 1:
        return int(steps)
    if steps:
        ratio = steps
    if not ratio:
        return None if steps is None else 0
    return ceil(total * ratio) if total is not None and total > 0 else ratio
