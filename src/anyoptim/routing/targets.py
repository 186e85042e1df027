"""``optim_target_modules``: which matrices its patterns choose, in order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from anyoptim.arguments.limits import refuse_excess, refuse_too_many
from anyoptim.arguments.patterns import Pattern
from anyoptim.errors import TargetModulesError, closest, did_you_mean, or_these
from anyoptim.names.role import LINEAR, NAMED_ALONE, ROLE_NOUNS, ROLE_TARGETS, Role
from anyoptim.routing.places import Place
from anyoptim.routing.structure import Structure
from anyoptim.text import LONGEST_QUOTE, read_json, shortened

_PLAIN = re.compile(r"\w*", re.ASCII)
"""What matches nothing but itself as a regex."""


@dataclass(frozen=True)
class Choice:
    """Why a parameter is a target.

    Args:
        rule: the pattern that chose it, the first one that matches.
        also: later patterns that match it too.
    """

    rule: str
    also: tuple[str, ...] = ()


@dataclass
class _Pattern:
    """One item of ``optim_target_modules`` with transformers' meaning.

    Source: transformers.trainer_utils.check_target_module_exists. A string is a full-match regex or
    ``all-linear``; an item of a list is an exact name, a substring or a full-match regex (and here
    ``all-linear`` too, which transformers knows outside of lists only).
    """

    text: str
    in_list: bool

    def __post_init__(self) -> None:
        self.roles = ROLE_TARGETS.get(self.text.replace("_", "-"))
        self.plain = self.in_list and _PLAIN.fullmatch(self.text) is not None
        self.quoted = f"optim_target_modules {shortened(self.text)}"

    @cached_property
    def regex(self) -> Pattern | TargetModulesError:
        """What it is as a regex, or why it is none; an item of a list may be a part of names alone."""
        try:
            return Pattern(self.text, self.quoted, TargetModulesError)
        except TargetModulesError as error:
            return error

    def matches(self, name: str) -> bool:
        if self.in_list and self.text in name:
            return True
        return not self.plain and isinstance(self.regex, Pattern) and self.regex.matches(name)

    def selects(self, place: Place) -> bool:
        if self.roles is not None:
            return place.role in self.roles
        if self.matches(place.module_name):
            return True
        return place.has_more_names and any(self.matches(name) for name in place.more_names)


def choose_targets(
    structure: Structure,
    target_modules: object,
    roles: frozenset[Role],
    optimizer: str,
    flattened: frozenset[int] = frozenset(),
) -> tuple[Mapping[str, Choice], list[str]]:
    """Return which parameters the patterns choose, by name, and what is worth saying about the patterns.

    A pattern means the linear maps that it matches: ``nn.Linear``, GPT-2's ``Conv1D``, stacks of experts. One that
    matches none of these, but embeddings or convolutions, means them. The first pattern that matches wins.

    Args:
        structure: the model's parameters.
        target_modules: a regex, ``"all-linear"``, ``"hidden-matrices"``, or a list of names, substrings and regexes,
            which may be JSON: a command line has no other way to write a list.
        roles: what the optimizer can take.
        optimizer: its name, for messages.
        flattened: ids of the convolutions that are matrices to it, and linear maps to a pattern.

    Raises:
        TargetModulesError: targets are missing or malformed, or a pattern chooses nothing.
    """
    patterns = _patterns(target_modules, optimizer)
    takeable = [
        each
        for each in structure.places
        if (each.role in roles or id(each.parameter) in flattened) and each.parameter.requires_grad
    ]
    linear = [each for each in takeable if each.role in LINEAR or id(each.parameter) in flattened]
    named_alone = [each for each in takeable if each.role in NAMED_ALONE]
    winners: dict[str, str] = {}
    also: dict[str, list[str]] = {}
    notes: list[str] = []
    for pattern in patterns:
        by_role = pattern.roles is not None
        chosen = [
            each for each in linear if pattern.selects(each) or (by_role and id(each.parameter) in flattened)
        ] or [each for each in named_alone if pattern.selects(each)]
        if not chosen:
            raise TargetModulesError(_nothing_chosen(pattern, structure, roles, optimizer))
        won = 0
        for place in chosen:
            if place.name in winners:
                also.setdefault(place.name, []).append(pattern.text)
            else:
                winners[place.name] = pattern.text
                won += 1
        if not won:
            notes.append(
                f"target pattern {shortened(pattern.text)} is never used: earlier patterns match all that it matches"
            )
        notes += _left_out(pattern, structure, winners)
    usual = {pattern.text: Choice(pattern.text) for pattern in patterns}
    overlapping = {name: Choice(winners[name], tuple(later)) for name, later in also.items()}
    return {name: overlapping.get(name) or usual[rule] for name, rule in winners.items()}, notes


def _patterns(target_modules: object, optimizer: str) -> list[_Pattern]:
    if target_modules is None:
        raise TargetModulesError(
            f"{optimizer} needs optim_target_modules: give 'all-linear', a regex, or a list such as ['attn', 'mlp']."
        )
    refuse_excess(target_modules, "optim_target_modules", TargetModulesError)
    target_modules = _read_list(target_modules)
    if isinstance(target_modules, str):
        patterns = [_Pattern(target_modules, in_list=False)]
    elif (
        isinstance(target_modules, Sequence)
        and target_modules
        and all(isinstance(each, str) for each in target_modules)
    ):
        patterns = [_Pattern(each, in_list=True) for each in target_modules]
    else:
        raise TargetModulesError(
            "optim_target_modules must be a regex, 'all-linear', 'hidden-matrices' or a list of strings, not"
            f" {shortened(target_modules)}."
        )
    refuse_too_many(len(patterns), "patterns", "optim_target_modules", TargetModulesError)
    for pattern in patterns:
        if not pattern.text:
            raise TargetModulesError("optim_target_modules has an empty pattern, which would match every module.")
        if not pattern.in_list and isinstance(pattern.regex, TargetModulesError):
            raise pattern.regex
    return patterns


def _read_list(target_modules: object) -> object:
    """Return the list that a text is, if it is one in JSON."""
    if isinstance(target_modules, str) and target_modules.lstrip().startswith("["):
        try:
            return read_json(target_modules)
        except ValueError:  # a regex may begin with a bracket, too
            return target_modules
    return target_modules


def _left_out(pattern: _Pattern, structure: Structure, winners: Mapping[str, str]) -> Iterator[str]:
    """Say that a tied head, which a pattern matches, is no target: its weight counts as the embedding's."""
    for module_name, place in structure.shared:
        if place.name in winners or place.role not in (Role.TIED_EMBEDDING, Role.EMBEDDING):
            continue
        if (pattern.roles is LINEAR and place.role is Role.TIED_EMBEDDING) or pattern.matches(module_name):
            what = f"{module_name} (its weight is shared with {place.name})"
            yield f"target pattern {shortened(pattern.text)} leaves out {what}"
            return


# ---------------------------------------------------------------- messages


def _nothing_chosen(pattern: _Pattern, structure: Structure, roles: frozenset[Role], optimizer: str) -> str:
    quoted = pattern.quoted
    trained = {each.role for each in structure.places if each.parameter.requires_grad}
    lora = sorted(str(each) for each in trained & roles & {Role.LORA_A, Role.LORA_B})
    if pattern.roles is not None and lora:
        return (
            f"{quoted} matches nothing: what {optimizer} could take are {' and '.join(lora)} matrices; set"
            " optim_target_modules=['lora_A', 'lora_B'] to choose them."
        )
    for module_name, place in structure.shared:
        if pattern.roles is None and len(place.parameter.shape) > 1 and pattern.matches(module_name):
            return (
                f"{quoted} matches {module_name} (its weight is shared with {place.name}) and nothing else;"
                f" name {place.module_name} instead."
            )
    for place in structure.places:
        if pattern.selects(place):
            reason = _why_not(place, roles)
            return (
                f"{quoted} matches {place.module_name or 'the model itself'} ({reason}) and no trainable matrix that"
                f" {optimizer} can take. {_examples(structure, roles)}"
            ).rstrip()
    if pattern.roles is not None:
        noun = ROLE_NOUNS[pattern.text.replace("_", "-")]
        return (
            f"{optimizer} has nothing to work on: the model has no {noun} that it can take; name others in"
            f" optim_target_modules, or take another optimizer. {_examples(structure, roles)}"
        ).rstrip()
    if isinstance(pattern.regex, TargetModulesError):
        return f"{pattern.regex} It is no part of a module's name, either."
    names = sorted({each.module_name for each in structure.places if each.role in roles})
    if not names:
        return f"{quoted} matches nothing: the model has no matrix that {optimizer} can take."
    written = _as_it_is_meant(pattern, structure)
    if written:
        return f"{quoted} is a regex, which no module's whole name matches; write {shortened(written)}."
    word = max(re.findall(r"\w+", pattern.text) or [pattern.text], key=len)
    parts = {part for name in names for part in name.split(".") if not part.isdigit()}
    close = did_you_mean(pattern.text, ROLE_TARGETS) or or_these(
        _to_write(closest(word, sorted(parts))[:3], pattern, structure)
    )
    return f"{quoted} matches no module.{close or ' ' + _examples(structure, roles)}".rstrip()


def _to_write(parts: Sequence[str], pattern: _Pattern, structure: Structure) -> list[str]:
    """Return what to write for parts of names: a regex has to match whole names."""
    if pattern.in_list:
        return list(parts)
    return [*filter(None, (_as_it_is_meant(_Pattern(each, in_list=False), structure) for each in parts))]


def _as_it_is_meant(pattern: _Pattern, structure: Structure) -> str:
    """Return what to write for a text that is meant as a part of names, or as a list of such, or ""."""
    if pattern.in_list or len(pattern.text) > LONGEST_QUOTE:
        return ""
    parts = [each.strip() for each in pattern.text.split(",")]
    if len(parts) > 1:
        as_list = [_Pattern(each, in_list=True) for each in parts if each]
        found = all(any(each.selects(place) for place in structure.places) for each in as_list)
        return json.dumps([each.text for each in as_list]) if found else ""
    part = re.escape(pattern.text).replace(r"\_", "_")
    for text in (rf".*{part}", rf".*{part}.*"):
        whole = _Pattern(text, in_list=False)
        if any(whole.selects(place) for place in structure.places):
            return text
    return ""


def _why_not(place: Place, roles: frozenset[Role]) -> str:
    kind = type(place.module).__name__
    if not place.parameter.requires_grad and place.role in roles:
        return "frozen"
    if place.role in LINEAR or isinstance(place.module, nn.Embedding):
        return f"{_article(str(place.role))}"
    return _article(kind)


def _article(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeio' else 'a'} {noun}"


def _examples(structure: Structure, roles: frozenset[Role]) -> str:
    names = {each.bare_module for each in structure.places if each.role in roles & LINEAR}
    leaves = sorted({name.rpartition(".")[2] for name in names} - {""})
    return f"Its linear modules end in {', '.join(leaves[:8])}." if leaves else ""
