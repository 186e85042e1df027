"""What differs for some parameters: ``groups`` and its shorthands, such as ``layer_decay`` and ``no_decay``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyoptim.errors import OptimArgsError, did_you_mean
from anyoptim.names.hyperparameters import Hyperparameter, Interval
from anyoptim.names.role import EMBEDDINGS, Role

if TYPE_CHECKING:
    from anyoptim.routing.structure import Place

_Typed = Callable[[object, Hyperparameter, str], object]

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
            Interval(low=0.0, open_low=True),
            scope="groups",
        ),
        Hyperparameter("embedding_lr", float, None, "learning rate of the embeddings", Interval(low=0.0), "groups"),
    )
}
"""What every optimizer with param groups takes beside its own hyperparameters."""

LR_RATIO = Hyperparameter("lr_ratio", float, None, "learning rate in units of lr", Interval(low=0.0, open_low=True))


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

    def adjust(
        self, places: Sequence[Place], layers: tuple[Mapping[str, int], int], optimizer: str
    ) -> tuple[dict[str, Adjustment], list[str]]:
        """Return the adjustment of each parameter that has one, by name, and notes.

        Of the entries the first that matches a parameter wins, and its keys win over the shorthands. ``layer_decay``
        multiplies every rate that is not given as a number.

        Args:
            places: the trainable parameters.
            layers: what ``layers.layer_numbers`` returns.
            optimizer: its name, for messages.

        Raises:
            OptimArgsError: an entry or a shorthand matches no parameter.
        """
        entry_of: dict[str, Entry] = {}
        notes: list[str] = []
        for entry in self.entries:
            found = _found(entry.match, places, entry.label)
            new = [place for place in found if place.name not in entry_of]
            entry_of.update((place.name, entry) for place in new)
            if not new:
                notes.append(f"groups entry {entry.match!r} is never used: earlier ones match all that it matches")
        undecayed: dict[str, str] = {}
        for text in self.no_decay:
            for place in _found(text, places, f"{optimizer}: no_decay {text!r}"):
                undecayed.setdefault(place.name, text)
        self._refuse_ineffective(places, layers, optimizer)
        adjustments: dict[str, Adjustment] = {}
        for place in places:
            own = entry_of.get(place.name)
            values, rules = self._rate(place, own, layers)
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
        self, place: Place, entry: Entry | None, layers: tuple[Mapping[str, int], int]
    ) -> tuple[dict[str, object], list[str]]:
        """Return ``lr`` or ``lr_ratio`` of a parameter, if it differs, and the shorthands that set it."""
        given = entry.values if entry else {}
        ratio, rules = 1.0, []
        if "lr" in given:
            return {}, []
        if "lr_ratio" in given:
            ratio = float(given["lr_ratio"])  # type: ignore[arg-type]  # typed by LR_RATIO
        elif self.embedding_lr is not None and place.role in EMBEDDINGS:
            return {"lr": self.embedding_lr}, ["embedding_lr"]
        elif self.lora_plus_ratio is not None and place.role is Role.LORA_B:
            ratio, rules = self.lora_plus_ratio, ["lora_plus_ratio"]
        if self.layer_decay is not None:
            numbers, last = layers
            exponent = last - numbers[place.name]
            if exponent:
                ratio *= self.layer_decay**exponent
                rules.append("layer_decay")
        return ({"lr_ratio": ratio} if rules or "lr_ratio" in given else {}), rules

    def _refuse_ineffective(
        self, places: Sequence[Place], layers: tuple[Mapping[str, int], int], optimizer: str
    ) -> None:
        roles = {place.role for place in places}
        if self.lora_plus_ratio is not None and Role.LORA_B not in roles:
            raise OptimArgsError(f"{optimizer}: lora_plus_ratio matches nothing: the model trains no LoRA B matrix.")
        if self.embedding_lr is not None and not roles & EMBEDDINGS:
            raise OptimArgsError(f"{optimizer}: embedding_lr matches nothing: the model trains no embedding.")
        if self.layer_decay is not None and not layers[0]:
            raise OptimArgsError(f"{optimizer}: layer_decay has no effect: the model has no list of layers.")


def _found(match: str, places: Sequence[Place], label: str) -> list[Place]:
    regex = re.compile(match)
    found = [each for each in places if regex.search(each.name) or regex.search(each.bare_name)]
    if not found:
        parts = {part for each in places for part in each.bare_name.split(".") if not part.isdigit()}
        word = max(re.findall(r"\w+", match) or [match], key=len)
        raise OptimArgsError(f"{label} matches no trainable parameter.{did_you_mean(word, sorted(parts))}")
    return found


# ---------------------------------------------------------------- reading


def read_entries(
    given: object, hyperparameters: Mapping[str, Hyperparameter], typed: _Typed, optimizer: str
) -> tuple[Entry, ...]:
    """Read ``groups``: a list of mappings, or that list as JSON.

    Args:
        given: each item has ``match``, a regex that is searched in parameter names, and hyperparameters by name, or
            ``lr_ratio``.
        hyperparameters: what a group may set.
        typed: brings a value to a hyperparameter's type; its second argument is what messages call it.
        optimizer: its name, for messages.

    Raises:
        OptimArgsError: names the entry, what is wrong, and the close and the valid keys.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise OptimArgsError(f"{optimizer}: groups is no valid JSON list: {error}.") from error
    if isinstance(given, Mapping) or not isinstance(given, Sequence) or not given:
        raise OptimArgsError(
            f"{optimizer}: groups must be a list such as [{{'match': 'embed_tokens', 'lr': 1e-5}}], not {given!r}."
        )
    return tuple(
        _read_entry(each, f"{optimizer}: groups entry {number}", hyperparameters, typed)
        for number, each in enumerate(given, start=1)
    )


def _read_entry(given: object, label: str, hyperparameters: Mapping[str, Hyperparameter], typed: _Typed) -> Entry:
    if not isinstance(given, Mapping) or not isinstance(given.get("match"), str) or not given["match"]:
        raise OptimArgsError(f"{label} must be a mapping with the key 'match', a regex, not {given!r}.")
    match = given["match"]
    label = f"{label} ({match!r})"
    _compiled(match, label)
    if len(given) == 1:
        raise OptimArgsError(f"{label} sets nothing; give it a hyperparameter, such as lr or weight_decay.")
    if "lr" in given and "lr_ratio" in given:
        raise OptimArgsError(f"{label} has both lr and lr_ratio, which set the same value; give one.")
    accepted = {**hyperparameters, **({"lr_ratio": LR_RATIO} if "lr" in hyperparameters else {})}
    values = {}
    for key, value in given.items():
        if key == "match":
            continue
        if key not in accepted:
            close = did_you_mean(str(key), ["match", *accepted])
            raise OptimArgsError(f"{label} has the unknown key {key!r}.{close} It takes: match, {', '.join(accepted)}.")
        values[str(key)] = typed(value, accepted[key], label)
    return Entry(match, values, label)


def read_patterns(given: object, label: str) -> tuple[str, ...]:
    """Read one regex or a list of them."""
    patterns = (given,) if isinstance(given, str) else tuple(given)  # type: ignore[arg-type]  # typed by GROUP_OPTIONS
    for each in patterns:
        _compiled(each, f"{label} {each!r}")
    return patterns


def _compiled(text: str, label: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise OptimArgsError(f"{label} is no valid regex: {error}.") from error
