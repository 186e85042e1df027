"""What differs for which parameter: overrides applied to the parameters of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anyoptim.arguments.overrides import Entry, Overrides
from anyoptim.arguments.patterns import Pattern
from anyoptim.errors import OptimArgsError, did_you_mean
from anyoptim.names.role import EMBEDDINGS, Role
from anyoptim.routing.places import Place
from anyoptim.text import shortened


@dataclass(frozen=True)
class Adjustment:
    """What differs for one parameter, and by which rules.

    Args:
        values: hyperparameters of its group; ``lr_ratio`` stands for a learning rate in units of the optimizer's.
        rule: what set them, for a person.
        label: what messages call the entry that set them; empty without one.
    """

    values: Mapping[str, object]
    rule: str
    label: str = ""


def adjust(
    overrides: Overrides, places: Sequence[Place], layers: tuple[Mapping[str, int], int], optimizer: str
) -> tuple[dict[str, Adjustment], list[str]]:
    """Return the adjustment of each parameter that has one, by name, and notes.

    Of the entries the first that matches a parameter wins, and its keys win over the shorthands. ``layer_decay``
    multiplies every rate that is not given as a number.

    Args:
        overrides: what was given.
        places: the trainable parameters.
        layers: what ``layers.layer_numbers`` returns.
        optimizer: its name, for messages.

    Raises:
        OptimArgsError: an entry or a shorthand matches no parameter.
    """
    entry_of: dict[str, Entry] = {}
    notes: list[str] = []
    for entry in overrides.entries:
        found = _found(entry.match, places, entry.label)
        new = [place for place in found if place.name not in entry_of]
        entry_of.update((place.name, entry) for place in new)
        if not new:
            notes.append(f"groups entry {shortened(entry.match)} is never used: earlier ones match all that it matches")
    undecayed: dict[str, str] = {}
    for text in overrides.no_decay:
        for place in _found(text, places, f"{optimizer}: no_decay {shortened(text)}"):
            undecayed.setdefault(place.name, text)
    _refuse_ineffective(overrides, places, layers, optimizer)
    adjustments: dict[str, Adjustment] = {}
    for place in places:
        own = entry_of.get(place.name)
        values, rules = _rate(overrides, place, own, layers)
        if place.name in undecayed and not (own and "weight_decay" in own.values):
            values["weight_decay"] = 0.0
            rules.append(f"no_decay {undecayed[place.name]}")
        if own:
            values = {**own.values, **values}
            rules.insert(0, own.match)
        if values:
            adjustments[place.name] = Adjustment(values, ", ".join(rules), own.label if own else "")
    return adjustments, notes


def _rate(
    overrides: Overrides, place: Place, entry: Entry | None, layers: tuple[Mapping[str, int], int]
) -> tuple[dict[str, object], list[str]]:
    """Return ``lr`` or ``lr_ratio`` of a parameter, if it differs, and the shorthands that set it."""
    given = entry.values if entry else {}
    ratio, rules = 1.0, []
    if "lr" in given:
        return {}, []
    if "lr_ratio" in given:
        ratio = float(given["lr_ratio"])  # type: ignore[arg-type]  # typed by LR_RATIO
    elif overrides.embedding_lr is not None and place.role in EMBEDDINGS:
        return {"lr": overrides.embedding_lr}, ["embedding_lr"]
    elif overrides.lora_plus_ratio is not None and place.role is Role.LORA_B:
        ratio, rules = overrides.lora_plus_ratio, ["lora_plus_ratio"]
    if overrides.layer_decay is not None:
        numbers, last = layers
        exponent = last - numbers[place.name]
        if exponent:
            ratio *= overrides.layer_decay**exponent
            rules.append("layer_decay")
    return ({"lr_ratio": ratio} if rules or "lr_ratio" in given else {}), rules


def _refuse_ineffective(
    overrides: Overrides, places: Sequence[Place], layers: tuple[Mapping[str, int], int], optimizer: str
) -> None:
    roles = {place.role for place in places}
    if overrides.lora_plus_ratio is not None and Role.LORA_B not in roles:
        raise OptimArgsError(f"{optimizer}: lora_plus_ratio matches nothing: the model trains no LoRA B matrix.")
    if overrides.embedding_lr is not None and not roles & EMBEDDINGS:
        raise OptimArgsError(f"{optimizer}: embedding_lr matches nothing: the model trains no embedding.")
    if overrides.layer_decay is not None and not layers[0]:
        raise OptimArgsError(f"{optimizer}: layer_decay has no effect: the model has no list of layers.")


def _found(match: str, places: Sequence[Place], label: str) -> list[Place]:
    regex = Pattern(match, label, OptimArgsError)
    found = [each for each in places if any(map(regex.finds, {each.name, each.bare_name}))]
    if not found:
        parts = {part for each in places for part in each.bare_name.split(".") if not part.isdigit()}
        word = max(re.findall(r"\w+", match) or [match], key=len)
        raise OptimArgsError(f"{label} matches no trainable parameter.{did_you_mean(word, sorted(parts))}")
    return found
