"""``groups`` and its shorthands, such as ``layer_decay``, as they are read: what differs for some parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anyoptim.arguments.limits import refuse_excess, refuse_too_many
from anyoptim.arguments.patterns import Pattern
from anyoptim.arguments.values import check
from anyoptim.errors import OptimArgsError, did_you_mean
from anyoptim.names.hyperparameters import Hyperparameter, Interval
from anyoptim.text import read_json, said, shortened

_RATE = Interval(low=0.0, open_high=True)
_RATIO = Interval(low=0.0, open_low=True, open_high=True)

GROUP_OPTIONS = {
    each.name: each
    for each in (
        Hyperparameter(
            "groups",
            None,
            None,
            "hyperparameters of the parameters whose name a regex finds: [{'match': ..., 'lr': ...}, ...]",
            scope="groups",
        ),
        Hyperparameter("no_decay", list[str] | str, None, "regexes of names without weight decay", scope="groups"),
        Hyperparameter(
            "layer_decay",
            float,
            None,
            "each layer's learning rate is that of the next one times this",
            Interval(low=0.0, high=1.0, open_low=True),
            scope="groups",
        ),
        Hyperparameter(
            "lora_plus_ratio",
            float,
            None,
            "learning rate of LoRA's B in units of that of A (LoRA+, arXiv 2402.12354)",
            _RATIO,
            scope="groups",
        ),
        Hyperparameter("embedding_lr", float, None, "learning rate of the embeddings", _RATE, "groups"),
    )
}
"""What every optimizer with param groups takes beside its own hyperparameters."""

LR_RATIO = Hyperparameter("lr_ratio", float, None, "learning rate in units of lr", _RATIO)


@dataclass(frozen=True)
class Entry:
    """One item of ``groups``.

    Args:
        match: a regex that is searched in a parameter's name, as it is and without what wrappers put into it.
        values: typed hyperparameters; ``lr_ratio`` is in units of the learning rate.
        label: what messages call it.
    """

    match: str
    values: Mapping[str, object]
    label: str


@dataclass(frozen=True)
class Overrides:
    """Every override of one plan; see ``GROUP_OPTIONS``."""

    entries: tuple[Entry, ...] = ()
    no_decay: tuple[str, ...] = ()
    layer_decay: float | None = None
    lora_plus_ratio: float | None = None
    embedding_lr: float | None = None

    def __bool__(self) -> bool:
        return self != Overrides()

    @classmethod
    def of(cls, values: Mapping[str, Any], optimizer: str) -> Overrides:
        """Return what typed values say.

        Args:
            values: of ``GROUP_OPTIONS``, by name; those that were given.
            optimizer: its name, for messages.
        """
        given = dict(values)
        entries = tuple(
            Entry(
                each["match"],
                {key: value for key, value in each.items() if key != "match"},
                f"{optimizer}: groups entry {number} ({shortened(each['match'])})",
            )
            for number, each in enumerate(given.pop("groups", ()), start=1)
        )
        return cls(entries=entries, no_decay=tuple(given.pop("no_decay", ())), **given)


def read_entries(
    given: object, hyperparameters: Mapping[str, Hyperparameter], optimizer: str
) -> list[dict[str, object]]:
    """Read ``groups``: a list of mappings, or that list as JSON.

    Args:
        given: each item has ``match``, a regex that is searched in parameter names, and hyperparameters by name, or
            ``lr_ratio``.
        hyperparameters: what a group may set.
        optimizer: its name, for messages.

    Raises:
        OptimArgsError: names the entry, what is wrong, and the close and the valid keys.
    """
    if isinstance(given, str):
        try:
            given = read_json(given)
        except ValueError as error:
            raise OptimArgsError(f"{optimizer}: groups is no valid JSON list: {said(error)}.") from error
        refuse_excess(given, f"{optimizer}: groups")
    if isinstance(given, Mapping) or not isinstance(given, Sequence) or not given:
        raise OptimArgsError(
            f"{optimizer}: groups must be a list such as [{{'match': 'embed_tokens', 'lr': 1e-5}}], not"
            f" {shortened(given)}."
        )
    refuse_too_many(len(given), "entries", f"{optimizer}: groups")
    return [
        _read_entry(each, f"{optimizer}: groups entry {number}", hyperparameters)
        for number, each in enumerate(given, start=1)
    ]


def _read_entry(given: object, label: str, hyperparameters: Mapping[str, Hyperparameter]) -> dict[str, object]:
    if not isinstance(given, Mapping) or not isinstance(given.get("match"), str) or not given["match"]:
        raise OptimArgsError(f"{label} must be a mapping with the key 'match', a regex, not {shortened(given)}.")
    match = given["match"]
    label = f"{label} ({shortened(match)})"
    Pattern(match, label, OptimArgsError)
    if len(given) == 1:
        raise OptimArgsError(f"{label} sets nothing; give it a hyperparameter, such as lr or weight_decay.")
    if "lr" in given and "lr_ratio" in given:
        raise OptimArgsError(f"{label} has both lr and lr_ratio, which set the same value; give one.")
    accepted = {**hyperparameters, **({"lr_ratio": LR_RATIO} if "lr" in hyperparameters else {})}
    values: dict[str, object] = {"match": match}
    for key, value in given.items():
        if key == "match":
            continue
        if key not in accepted:
            close = did_you_mean(str(key), ["match", *accepted])
            raise OptimArgsError(
                f"{label} has the unknown key {shortened(key)}.{close} It takes: match, {', '.join(accepted)}."
            )
        values[str(key)] = check(value, accepted[key], label)
    return values


def read_patterns(given: object, label: str) -> tuple[str, ...]:
    """Read one regex or a list of them."""
    patterns = (given,) if isinstance(given, str) else tuple(given)  # type: ignore[arg-type]  # typed by GROUP_OPTIONS
    refuse_too_many(len(patterns), "patterns", label)
    for each in patterns:
        Pattern(each, f"{label} {shortened(each)}", OptimArgsError)
    return patterns
