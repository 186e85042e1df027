"""What an optimizer takes, against its package: signatures, and what they do not say."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import textwrap
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from chosen import SPECS
from toys import llama, plain_steps, same_weights, weights

import anyoptim


def test_defaults_that_are_no_plain_values() -> None:
    """They are the constructor's own, which is not given the keyword unless somebody sets it."""
    name = "pytorch_optimizer/adopt"
    planned = anyoptim.plan(name, llama())
    assert str(planned.hyperparameters["clip_lambda"].value) == "its own"
    assert "clip_lambda" not in planned.keywords
    json.dumps(planned.to_dict())
    planned = anyoptim.plan(name, llama(), clip_lambda=lambda step: step)
    assert planned.keywords["clip_lambda"](5) == 5  # type: ignore[operator]  # the function above
    with pytest.raises(anyoptim.OptimArgsError, match="cannot be given as text"):
        anyoptim.plan(name, llama(), optim_args="clip_lambda=sqrt")


def test_a_keyword_that_another_version_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out where nobody set it; refused where somebody did."""

    class Older(torch.optim.SGD):
        def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
            super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    monkeypatch.setattr(torch.optim, "SGD", Older)
    assert isinstance(anyoptim.get_optimizer("sgd", llama(), optim_args="momentum=0.5"), Older)
    with pytest.raises(anyoptim.OptimArgsError, match="nesterov"):
        anyoptim.get_optimizer("sgd", llama(), optim_args="momentum=0.5,nesterov=true")


def test_values_of_an_index_have_the_types_of_the_signature() -> None:
    values = {key: each.value for key, each in anyoptim.plan("pytorch_optimizer/adan", llama()).hyperparameters.items()}
    assert values["betas"] == (0.98, 0.92, 0.99)
    assert isinstance(values["betas"], tuple)
    with pytest.raises(anyoptim.OptimArgsError, match="foreach must be"):
        anyoptim.parse_optim_args("foreach=perhaps", "pytorch_optimizer/adan")
    assert anyoptim.parse_optim_args("foreach=no,variant=exp", "pytorch_optimizer/a2grad") == {
        "foreach": False,
        "variant": "exp",
    }


# ---------------------------------------------------------------- what signatures do not say

NO_SETTINGS = {
    "adabound": {"adam_debias"},  # its constructor drops it
    "muonclip": {"attention_name", "qk_clip"},  # of groups that are one attention layer's queries and keys
    "pytorch_optimizer/adammini": {"name"},
    "pytorch_optimizer/adamuon": {"momentum", "nesterov"},  # of a base class's step, which it does not run
    "pytorch_optimizer/alig": {"lr"},
    "pytorch_optimizer/flashadamw": {"initial_lr", "master_byte_width"},
    "pytorch_optimizer/lorarite": {"eps_root"},
    "pytorch_optimizer/mars": {"lr_1d_factor"},
    "pytorch_optimizer/rose": {"initial_lr", "max_lr"},  # of schedulers
    "pytorch_optimizer/swats": {"adam_debias"},  # its constructor drops it
    "pytorch_optimizer/vsgd": {"pa2", "pbg2", "pbhg2"},
}
"""What a step reads of a group and nobody sets: it is computed, or another class's."""


def _read_of_groups(cls: type) -> set[str]:
    """Return the keys of groups that the source of a class, and of those it is made from, reads and never writes."""
    read: set[str] = set()
    written: set[str] = set()
    for each in cls.__mro__:
        if each.__module__.partition(".")[0] in ("torch", "builtins", "abc", "typing"):
            continue
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(each)))):
            match node:
                case ast.Subscript(ast.Name(id=name), ast.Constant(value=str(key)), ctx) if "group" in name:
                    (written if isinstance(ctx, ast.Store) else read).add(key)
                case ast.Call(ast.Attribute(ast.Name(id=name), "get"), [ast.Constant(value=str(key)), *_]):
                    read |= {key} if "group" in name else set()
    return read - written - {"params"}


@pytest.mark.parametrize("name", [each for each, spec in SPECS.items() if spec.package == "pytorch_optimizer"])
def test_the_group_keys_that_a_package_reads_can_be_set(name: str) -> None:
    own = SPECS[name].default
    flag = {own.group_flag.key} if own.group_flag else set()
    known = {each.keyword for each in own.hyperparameters} | own.refused.keys() | flag
    cls: Any = own.load()
    assert _read_of_groups(cls) - known == NO_SETTINGS.get(name, set())


@pytest.mark.parametrize(
    ("name", "key"), [("pytorch_optimizer/lion", "use_gc"), ("adamp", "cautious"), ("adai", "use_gc")]
)
def test_what_a_signature_does_not_name_takes_effect(name: str, key: str) -> None:
    trained = []
    for value in ("false", "true"):
        model = llama()
        optimizer = anyoptim.get_optimizer(name, model, optim_args=f"{key}={value}")
        plain_steps(model, optimizer, 3)
        trained.append(weights(model))
    assert not same_weights(*trained)
    found = anyoptim.plan(name, llama(), optim_args=f"q_proj@{key}=true")
    assert found.build().param_groups[-1][key] is True


PROJECTORS = {
    "galore_torch/galore_adamw": "galore_torch.galore_projector",
    "galore_torch/galore_adafactor": "galore_torch.galore_projector",
    "galore_adamw": "galore_torch.galore_projector",
}


@pytest.mark.parametrize("name", PROJECTORS)
def test_the_sides_that_are_projected_are_the_packages_own(name: str) -> None:
    source = inspect.getsource(importlib.import_module(PROJECTORS[name]))
    theirs = set(re.findall(r"self\.proj_type == ['\"](\w+)['\"]", source))
    assert set(_choices(name, "proj_type")) == theirs


@pytest.mark.parametrize("name", ["pytorch_optimizer/galore", "pytorch_optimizer/apollo", "fira", "conda"])
def test_the_projections_are_the_packages_own(name: str) -> None:
    from pytorch_optimizer.optimizer.utils.galore import PROJECTION_TYPE

    assert set(_choices(name, "projection_type")) == set(get_args(PROJECTION_TYPE))
    for value in get_args(PROJECTION_TYPE) if name != "conda" else ("std", "random"):
        model = llama()
        given = {"optim_target_modules": "all-linear", "optim_args": f"projection_type={value}"}
        rank = {} if name == "conda" else {"rank": 4}
        plain_steps(model, anyoptim.get_optimizer(name, model, given, lr=1e-3, **rank), 2)


def test_choices_written_by_hand_are_those_of_the_signature() -> None:
    checked = []
    for name, spec in SPECS.items():
        for own in spec.implementations:
            if own.name != "upstream" or own.device or not own.installed:
                continue
            try:
                signature = inspect.signature(own.load(), eval_str=True).parameters
            except NameError:
                continue
            for each in own.hyperparameters:
                parameter = signature.get(each.keyword)
                if parameter is None or each.member or not (theirs := _literals(parameter.annotation)):
                    continue
                assert set(_literals(each.type)) == set(theirs), (name, each.name)
                checked.append((name, each.name))
    assert ("conda", "projection_type") in checked


def _choices(name: str, keyword: str) -> tuple[object, ...]:
    return next(_literals(each.type) for each in SPECS[name].hyperparameters if each.keyword == keyword)


def _literals(annotation: object) -> tuple[object, ...]:
    """Return the values of a ``Literal``, also of one inside of a union."""
    if get_origin(annotation) is Literal:  # heavyball has a marker of its own in one
        return tuple(each for each in get_args(annotation) if isinstance(each, (str, int)))
    return tuple(value for each in get_args(annotation) for value in _literals(each))
