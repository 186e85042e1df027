"""Names: aliases, wildcards, registering, and the signatures behind them."""

from __future__ import annotations

import inspect
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import NAMES, arguments, llama

import anyoptim
from anyoptim import Implementation
from anyoptim.names import registry
from anyoptim.names.composing import variant
from anyoptim.names.hyperparameters import REQUIRED
from anyoptim.names.signatures import hyperparameters_of

ALL = anyoptim.list_optimizers()
IMPLEMENTATIONS = [
    pytest.param(spec.name, implementation, id=f"{spec.name}-{implementation.name}")
    for spec in map(anyoptim.optimizer_info, NAMES)
    for implementation in spec.implementations
]
# where a spec's default is on purpose not the constructor's own
DEFAULTS_OF_OUR_OWN = {
    ("adafactor", "lr"),
    ("adafactor", "scale_parameter"),
    ("adafactor", "relative_step"),
    ("adamw_torch_fused", "fused"),
    ("galore_adafactor", "lr"),
    ("galore_adafactor", "scale_parameter"),
    ("galore_adafactor", "relative_step"),
    ("galore_adafactor_layerwise", "lr"),
    ("galore_adafactor_layerwise", "scale_parameter"),
    ("galore_adafactor_layerwise", "relative_step"),
    ("galore_adamw_8bit", "optim_bits"),
    ("galore_adamw_8bit_layerwise", "optim_bits"),
    ("stable_adamw", "lr"),
}


def test_the_names_of_the_guide_are_there() -> None:
    assert {
        "apollo_adamw",
        "apollo_mini",
        "grokadamw",
        "lomo",
        "adalomo",
        "schedule_free_radamw",
        "schedule_free_adamw",
        "schedule_free_sgd",
        "stable_adamw",
        "adamw_torch",
        "adamw_torch_fused",
        "adafactor",
        "sgd",
        "adagrad",
        "rmsprop",
    } <= set(ALL)


@pytest.mark.parametrize(
    "spelling", ["schedule_free_radam", "Schedule-Free-RAdamW", "SCHEDULE FREE RADAM", "schedulefree/radam"]
)
def test_spellings_of_one_optimizer(spelling: str) -> None:
    assert anyoptim.optimizer_info(spelling).name == "schedule_free_radamw"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("apolo_adamw", "apollo_adamw"), ("adamv", "adamw"), ("grok_adamw", "grokadamw"), ("paged_adamw", "adamw")],
)
def test_unknown_names_are_never_guessed(wrong: str, right: str) -> None:
    with pytest.raises(anyoptim.UnknownOptimizerError, match=f"Did you mean .*{right}"):
        anyoptim.get_optimizer(wrong, llama())


def test_listing() -> None:
    assert sorted(ALL) == ALL
    assert anyoptim.list_optimizers("schedule_free*") == [
        "schedule_free",
        "schedule_free_adamw",
        "schedule_free_radamw",
        "schedule_free_sgd",
    ]
    assert anyoptim.list_optimizers("*e_radam") == ["schedule_free_radamw"]
    assert anyoptim.list_optimizers("*adamw", package="torch-optimi") == ["optimi/adamw", "stable_adamw"]
    installed, missing = (anyoptim.list_optimizers(installed=each) for each in (True, False))
    assert sorted(installed + missing) == ALL
    assert anyoptim.list_optimizers("no_such*") == []


@pytest.mark.parametrize(("name", "implementation"), IMPLEMENTATIONS)
def test_hyperparameters_are_those_of_the_constructor(name: str, implementation: Any) -> None:
    constructor = implementation.load()
    actual = {each.name: each.default for each in hyperparameters_of(constructor)}
    declared = {each.name: each for each in implementation.hyperparameters if each.scope == "optimizer"}
    # what is refused may be another implementation's
    assert declared.keys() <= actual.keys() <= declared.keys() | implementation.refused.keys()
    for key, each in declared.items():
        if ((name, key)) not in DEFAULTS_OF_OUR_OWN:
            assert each.default == actual[key], key


@pytest.mark.parametrize("name", NAMES)
def test_every_spec_says_what_a_person_needs(name: str) -> None:
    spec = anyoptim.optimizer_info(name)
    assert spec.summary
    assert spec.licence
    assert spec.usual_lr
    assert spec.usual_lr[0] < spec.usual_lr[1]
    assert all(each.help and each.default is not REQUIRED for each in spec.hyperparameters)


@pytest.mark.usefixtures("restored_registry")
def test_register_a_class_and_use_it() -> None:
    @anyoptim.register("half_sgd", summary="SGD at half the rate")
    class HalfSGD(torch.optim.SGD):
        def __init__(self, params: Any, lr: float = 0.1, weight_decay: float = 0.0) -> None:
            super().__init__(params, lr=lr / 2, weight_decay=weight_decay)

    optimizer = anyoptim.get_optimizer("half-sgd", llama(), {"learning_rate": 0.2, "weight_decay": 0.1})
    assert type(optimizer) is HalfSGD
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}
    assert anyoptim.optimizer_info("half_sgd").summary == "SGD at half the rate"


@pytest.mark.usefixtures("restored_registry")
def test_changed_adam_fields_reach_a_constructor_without_annotations() -> None:
    @anyoptim.register("bare")
    class Bare(torch.optim.Optimizer):
        def __init__(self, params, lr=1, betas=(0.9, 0.99), eps=1e-6):
            super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    unchanged = {"learning_rate": 0.5, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}
    values = {key: each.value for key, each in anyoptim.plan("bare", None, unchanged).hyperparameters.items()}
    assert values == {"lr": 0.5, "betas": (0.9, 0.99), "eps": 1e-6}
    changed = {**unchanged, "adam_beta1": 0.8, "adam_epsilon": 1e-4}
    values = {key: each.value for key, each in anyoptim.plan("bare", None, changed).hyperparameters.items()}
    assert values == {"lr": 0.5, "betas": (0.8, 0.99), "eps": 1e-4}


@pytest.mark.usefixtures("restored_registry")
def test_register_a_factory() -> None:
    @anyoptim.register("factory")
    def make(params: Any, lr: float = 0.1) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=lr)

    assert type(anyoptim.get_optimizer("factory", llama(), lr=0.5)) is torch.optim.SGD


@pytest.mark.usefixtures("restored_registry")
def test_a_name_that_exists() -> None:
    spec = anyoptim.optimizer_info("sgd")
    with pytest.raises(anyoptim.OptimError, match="'sgd' exists already; pass replace=True"):
        anyoptim.register(spec)
    with pytest.raises(anyoptim.OptimError, match="exists already"):
        anyoptim.register("torch/sgd")(torch.optim.SGD)
    with pytest.raises(anyoptim.OptimError, match="lower snake case"):
        anyoptim.register(variant(spec, "My-SGD"))
    anyoptim.register(variant(spec, "my_sgd", momentum=0.9))
    anyoptim.register(variant(spec, "my_sgd", momentum=0.8), replace=True)
    assert anyoptim.plan("my_sgd", None).hyperparameters["momentum"].value == 0.8
    with pytest.raises(anyoptim.OptimError, match="no hyperparameter 'momentun'"):
        variant(spec, "other", momentun=0.9)


def test_an_enum_member_is_its_value(tmp_path: Path) -> None:
    class Names(str, Enum):
        MINE = "adamw_torch"
        WRAPPED = "lookahead(SGD)"

    args = arguments(tmp_path, optim="adamw_torch", learning_rate=0.5)
    optimizer = anyoptim.get_optimizer(args.optim, llama(), args)
    assert type(optimizer) is torch.optim.AdamW and optimizer.param_groups[0]["lr"] == 0.5
    assert anyoptim.optimizer_info(Names.MINE).name == "adamw_torch"
    assert anyoptim.plan(Names.WRAPPED, None).spec.name == "lookahead(sgd)"
    assert anyoptim.list_optimizers(Names.MINE) == ["adamw_torch"]
    assert anyoptim.parse_optim_args("lr=0.5", Names.MINE) == {"lr": 0.5}
    with pytest.raises(anyoptim.UnknownOptimizerError, match="called 'apolo'"):
        anyoptim.optimizer_info(Enum("Others", {"A": "apolo"}).A)  # type: ignore[arg-type]  # a member of an enum


@pytest.mark.parametrize(
    "name",
    ["lookahead(" * 3000, "lookahead(" * 3000 + "sgd" + ")" * 3000, "(" * 3000, "a" * 99999, "+" * 3000, ")" * 3000],
    ids=["open", "nested", "brackets", "long", "pluses", "closed"],
)
def test_a_name_of_any_length_is_one_sentence(name: str) -> None:
    with pytest.raises(anyoptim.UnknownOptimizerError) as caught:
        anyoptim.optimizer_info(name)
    assert len(str(caught.value)) < 400


def test_public_names_exist_and_have_docstrings() -> None:
    for name in anyoptim.__all__:
        thing = getattr(anyoptim, name)
        assert name == "__version__" or inspect.getdoc(thing), name
    assert set(dir(anyoptim)) == set(anyoptim.__all__)
    with pytest.raises(AttributeError):
        anyoptim.__getattr__("no_such_name")
    assert registry.ENTRY_POINT_GROUP == "anyoptim.optimizers"


def test_a_package_is_found_when_it_comes_and_missed_when_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = Implementation("upstream", "comes_later:X", (), package="comes-later", licence="")
    monkeypatch.syspath_prepend(tmp_path)
    assert not lacking.installed
    (tmp_path / "comes_later.py").write_text("")
    assert lacking.installed
    (tmp_path / "comes_later.py").unlink()
    assert not lacking.installed
    (tmp_path / "comes_later.py").write_text("")
    monkeypatch.setitem(sys.modules, "comes_later", None)
    assert not lacking.installed
