"""Which parameters ``optim_target_modules`` selects, and why."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from anyoptim.errors import OptimError, TargetModulesError, did_you_mean

# transformers.Trainer.get_decay_parameter_names: these, and all parameters of a LayerNorm, do not decay
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


@dataclass(frozen=True)
class Route:
    """Where one trainable parameter goes.

    Args:
        name: its first name in ``model.named_parameters()``.
        parameter: the parameter.
        is_target: whether a target pattern chose it.
        decays: whether weight decay applies, by transformers' rule.
        rule: the pattern that chose it, or why it is no target, for a person.
    """

    name: str
    parameter: nn.Parameter
    is_target: bool
    decays: bool
    rule: str


@dataclass(frozen=True)
class Routing:
    """All trainable parameters of a model, each once, and what is worth saying about the patterns."""

    routes: tuple[Route, ...]
    notes: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[Route, ...]:
        """The routes that a target pattern chose."""
        return tuple(route for route in self.routes if route.is_target)


class _Pattern:
    """One item of ``optim_target_modules`` with transformers' meaning.

    Source: transformers.trainer_utils.check_target_module_exists. A string is a full-match regex or
    ``all-linear``; an item of a list is an exact name, a substring or a full-match regex (and here
    ``all-linear`` too, which transformers knows outside of lists only).
    """

    def __init__(self, text: str, *, in_list: bool) -> None:
        self.text = text
        self.in_list = in_list
        self.all_linear = text.replace("_", "-") == "all-linear"
        self.regex_error = ""
        try:
            self.regex: re.Pattern[str] | None = re.compile(text)
        except re.error as error:
            self.regex, self.regex_error = None, str(error)
        self.eligible = 0
        self.won = 0
        self.left_out: list[str] = []

    def matches(self, name: str) -> bool:
        if self.in_list and self.text in name:
            return True
        return self.regex is not None and self.regex.fullmatch(name) is not None


def route(model: nn.Module, target_modules: object, *, takes_targets: bool, optimizer: str) -> Routing:
    """Decide for every trainable parameter whether it is a target and whether it decays; linear in modules.

    Args:
        model: any module.
        target_modules: ``optim_target_modules``: a regex, ``"all-linear"``, or a list of names,
            substrings and regexes, of which the first that matches wins.
        takes_targets: whether the optimizer treats target modules differently.
        optimizer: its name, for messages.

    Raises:
        OptimError: the model has no trainable parameter.
        TargetModulesError: targets are needed and missing, malformed, or a pattern chooses nothing.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise OptimError(
            f"{optimizer}: the model has no trainable parameter; set requires_grad on what should be trained."
        )
    patterns = _patterns(target_modules, optimizer) if takes_targets else []
    chosen, notes = _choose(model, patterns, optimizer) if patterns else ({}, [])
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    routes = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rule = chosen.get(name)
        decays = not _NO_DECAY.search(name.lower()) and not _inside(name, norms)
        routes.append(Route(name, parameter, rule is not None, decays, rule or "-"))
    if takes_targets:
        notes += _unreached_stacks(model, routes)
    return Routing(tuple(routes), tuple(notes))


def _inside(name: str, modules: Container[str]) -> bool:
    """Whether a parameter lies below one of some modules, at any depth."""
    return any(name[: dot.start()] in modules for dot in re.finditer(r"\.", name))


def _patterns(target_modules: object, optimizer: str) -> list[_Pattern]:
    if target_modules is None:
        raise TargetModulesError(
            f"{optimizer} needs optim_target_modules: give 'all-linear', a regex, or a list such as ['attn', 'mlp']."
        )
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
            f"optim_target_modules must be a regex, 'all-linear' or a list of strings, not {target_modules!r}."
        )
    for pattern in patterns:
        if not pattern.text:
            raise TargetModulesError("optim_target_modules has an empty pattern, which would match every module.")
        if pattern.regex_error and not pattern.in_list:
            raise TargetModulesError(f"optim_target_modules {pattern.text!r} is no valid regex: {pattern.regex_error}.")
    return patterns


def _choose(model: nn.Module, patterns: list[_Pattern], optimizer: str) -> tuple[dict[str, str], list[str]]:
    """Return the rule for each chosen parameter name, and notes."""
    own_names = {id(parameter): name for name, parameter in model.named_parameters()}
    chosen: dict[str, str] = {}
    notes: list[str] = []
    linear_names: list[str] = []
    for module_name, module in model.named_modules():
        is_linear = isinstance(module, nn.Linear)
        if is_linear:
            linear_names.append(module_name)
        rule = None
        for pattern in patterns:
            if pattern.all_linear and not is_linear:
                continue
            if not pattern.all_linear and not pattern.matches(module_name):
                continue
            reason = _no_target(module, module_name, own_names)
            if reason:
                pattern.left_out.append(f"{module_name or 'the model itself'} ({reason})")
                continue
            pattern.eligible += 1
            if rule is None:
                rule = pattern.text
                pattern.won += 1
        if rule is not None:
            chosen[f"{module_name}.weight" if module_name else "weight"] = rule
    for pattern in patterns:
        if not pattern.eligible:
            raise TargetModulesError(_nothing_chosen(pattern, linear_names, optimizer))
        if not pattern.won:
            notes.append(f"target pattern {pattern.text!r} is never used: earlier patterns match all that it matches")
        tied = [reason for reason in pattern.left_out if "shared with" in reason]
        if tied:
            notes.append(f"target pattern {pattern.text!r} leaves out {tied[0]}")
    return chosen, notes


def _no_target(module: nn.Module, name: str, own_names: dict[int, str]) -> str:
    """Return why a matched module's weight cannot be a target, or ""."""
    if not isinstance(module, nn.Linear):
        return f"a {type(module).__name__}, not nn.Linear"
    weight_name = f"{name}.weight" if name else "weight"
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is computed, not a parameter"
    if own_names.get(id(weight)) != weight_name:
        return f"its weight is shared with {own_names.get(id(weight))}"
    return "" if weight.requires_grad else "frozen"


def _unreached_stacks(model: nn.Module, routes: Sequence[Route]) -> Iterator[str]:
    """Say which stacked experts (E, m, n) no target pattern can reach."""
    convolutions = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.modules.conv._ConvNd)
        for parameter in module.parameters(recurse=False)
    }
    stacks = [each for each in routes if each.parameter.dim() == 3 and id(each.parameter) not in convolutions]
    if stacks:
        share = sum(each.parameter.numel() for each in stacks) / sum(each.parameter.numel() for each in routes)
        yield (
            f"{len(stacks)} stacked weights such as {stacks[0].name} ({share:.0%} of the model) are no nn.Linear,"
            " so they are trained without a projection and save no memory"
        )


def _nothing_chosen(pattern: _Pattern, linear_names: list[str], optimizer: str) -> str:
    quoted = f"optim_target_modules {pattern.text!r}"
    if pattern.left_out:
        return (
            f"{quoted} matches {pattern.left_out[0]} and no trainable nn.Linear, which {optimizer} needs."
            f" {_examples(linear_names)}"
        )
    if pattern.regex_error:
        return f"{quoted} is no module name and no valid regex: {pattern.regex_error}."
    if not linear_names:
        return f"{quoted} matches nothing: the model has no nn.Linear, which {optimizer} needs."
    word = max(re.findall(r"\w+", pattern.text) or [pattern.text], key=len)
    parts = {part for name in linear_names for part in name.split(".") if not part.isdigit()}
    close = did_you_mean(pattern.text, ["all-linear"]) or did_you_mean(word, sorted(parts))
    return f"{quoted} matches no module.{close or ' ' + _examples(linear_names)}"


def _examples(linear_names: list[str]) -> str:
    leaves = sorted({name.rpartition(".")[2] for name in linear_names})
    return f"Its linear modules end in {', '.join(leaves[:8])}." if leaves else ""
