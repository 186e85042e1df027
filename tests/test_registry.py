"""Names: aliases, wildcards, registering, plug-ins, class paths, and what importing costs."""

from __future__ import annotations

import inspect
import json
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import new_python
from toys import NAMES, arguments, llama

import anyoptim
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
    [("apolo_adamw", "apollo_adamw"), ("adamw", "adamw_torch"), ("grok_adamw", "grokadamw"), ("paged_adamw", "adamw")],
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


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("no_such_package.optim:Thing", anyoptim.MissingPackageError, "does not import"),
        ("torch.optim:AdamV", anyoptim.UnknownOptimizerError, "Did you mean 'Adam"),
        ("torch.nn:Linear", anyoptim.UnknownOptimizerError, "no optimizer 'Linear'"),
        ("torch.optim.AdamW", anyoptim.UnknownOptimizerError, "Write a class path as torch.optim:AdamW"),
        (".optim:AdamW", anyoptim.UnknownOptimizerError, "not a class path"),
        ("torch.optim:", anyoptim.UnknownOptimizerError, "not a class path"),
        (":AdamW", anyoptim.UnknownOptimizerError, "not a class path"),
    ],
)
def test_class_paths_that_do_not_work(path: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        anyoptim.optimizer_info(path)


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


@pytest.mark.usefixtures("restored_registry")
def test_a_class_path_calls_no_function_that_is_not_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strangers_module.py").write_text(
        "import torch, anyoptim\n"
        "def bare(params, lr=0.1):\n    raise SystemExit('called')\n"
        "@anyoptim.register('strangers_sgd')\n"
        "def known(params, lr=0.1):\n    return torch.optim.SGD(params, lr=lr)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for path in ("strangers_module:bare", "os:system", "torch:compile"):
        with pytest.raises(anyoptim.UnknownOptimizerError, match=r"names a subclass of torch\.optim\.Optimizer"):
            anyoptim.get_optimizer(path, llama())
    assert type(anyoptim.get_optimizer("strangers_module:known", llama())) is torch.optim.SGD


def test_class_paths_can_be_switched_off(tmp_path: Path) -> None:
    (tmp_path / "strangers_module.py").write_text("raise SystemExit('imported')\n")
    program = (
        "import os, anyoptim\n"
        "os.environ['ANYOPTIM_CLASS_PATHS'] = 'off'\n"
        "for name in ('strangers_module:Thing', 'lookahead(strangers_module:Thing)', 'muon+strangers_module:Thing'):\n"
        "    try:\n"
        "        anyoptim.optimizer_info(name)\n"
        "    except anyoptim.UnknownOptimizerError as error:\n"
        "        print('ANYOPTIM_CLASS_PATHS=off allows registered names only' in str(error))\n"
    )
    assert new_python(program, path=tmp_path).stdout.split() == ["True"] * 3


def test_threads_find_names_before_the_catalogue_is_loaded(tmp_path: Path) -> None:
    plugin(tmp_path, name="slow", value="plugged:Plugged", source=(
        "import time, torch\ntime.sleep(0.2)\nclass Plugged(torch.optim.SGD): pass\n"
    ))  # fmt: skip
    program = (
        "import sys, threading, anyoptim\n"
        "sys.setswitchinterval(1e-5)\n"
        "found, start = [], threading.Barrier(8)\n"
        "def look():\n"
        "    start.wait()\n"
        "    found.append((anyoptim.optimizer_info('adamw_torch').name, len(anyoptim.list_optimizers()),\n"
        "                  anyoptim.optimizer_info('slow').name))\n"
        "threads = [threading.Thread(target=look) for _ in range(8)]\n"
        "[each.start() for each in threads]; [each.join() for each in threads]\n"
        "print(len(found), len(set(found)))\n"
    )
    assert new_python(program, path=tmp_path).stdout.split() == ["8", "1"]


def test_a_class_path_is_strict_about_arguments() -> None:
    optimizer = anyoptim.get_optimizer("torch.optim:NAdam", llama(), optim_args="momentum_decay=0.01,beta1=0.8")
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.999)
    with pytest.raises(anyoptim.OptimArgsError, match="Did you mean 'momentum_decay'"):
        anyoptim.get_optimizer("torch.optim:NAdam", llama(), optim_args="momentum_decai=0.01")


def plugin(folder: Path, *, name: str, value: str, source: str) -> None:
    """Install a plug-in package as pip would leave it: a module and a dist-info folder."""
    (folder / "plugged.py").write_text(source)
    info = folder / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[anyoptim.optimizers]\n{name} = {value}\n")


def test_a_plug_in_is_there_without_being_imported(tmp_path: Path) -> None:
    plugin(
        tmp_path,
        name="plugged_sgd",
        value="plugged:Plugged",
        source="import torch\nclass Plugged(torch.optim.SGD):\n"
        "    def __init__(self, params, lr=0.1, momentum=0.0):\n"
        "        super().__init__(params, lr=lr, momentum=momentum)\n",
    )
    program = (
        "import anyoptim, sys\n"
        "assert 'plugged_sgd' in anyoptim.list_optimizers()\n"
        "assert 'plugged' not in sys.modules\n"
        "import torch\n"
        "optimizer = anyoptim.get_optimizer('plugged_sgd', torch.nn.Linear(2, 2), optim_args='momentum=0.5')\n"
        "print(type(optimizer).__module__, optimizer.param_groups[0]['momentum'])\n"
    )
    assert new_python(program, path=tmp_path).stdout.split() == ["plugged", "0.5"]


def test_a_broken_plug_in_is_one_warning(tmp_path: Path) -> None:
    plugin(tmp_path, name="broken", value="plugged:Nothing", source="raise RuntimeError('no luck')\n")
    program = (
        "import anyoptim, warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(2):\n"
        "        try:\n"
        "            anyoptim.optimizer_info('broken')\n"
        "        except anyoptim.UnknownOptimizerError:\n"
        "            pass\n"
        "    anyoptim.optimizer_info('sgd')\n"
        "print(len(caught), 'no luck' in str(caught[0].message))\n"
    )
    assert new_python(program, path=tmp_path).stdout.split() == ["1", "True"]


def test_a_plug_in_whose_spec_takes_a_name_that_exists(tmp_path: Path) -> None:
    source = "import anyoptim\nSPEC = anyoptim.optimizer_info('sgd')\n"
    plugin(tmp_path, name="cuckoo", value="plugged:SPEC", source=source)
    program = (
        "import anyoptim, warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    try:\n"
        "        anyoptim.optimizer_info('cuckoo')\n"
        "    except anyoptim.UnknownOptimizerError:\n"
        "        print('exists already' in str(caught[0].message))\n"
    )
    assert new_python(program, path=tmp_path).stdout.strip() == "True"


def test_a_plug_in_does_not_take_a_name_that_exists(tmp_path: Path) -> None:
    plugin(tmp_path, name="sgd", value="plugged:Nothing", source="")
    program = "import anyoptim; print(anyoptim.optimizer_info('sgd').package)"
    assert new_python(program, path=tmp_path).stdout.strip() == "torch"


def test_importing_anyoptim_is_light() -> None:
    program = (
        "import sys, json, anyoptim\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'numpy', 'rich', 'typer'}\n"
        "first = sorted(heavy & set(sys.modules))\n"
        "anyoptim.list_optimizers(); anyoptim.optimizer_info('apollo_adamw')\n"
        "anyoptim.parse_optim_args('rank=4', 'apollo_adamw')\n"
        "print(json.dumps([first, sorted(heavy & set(sys.modules))]))\n"
    )
    assert json.loads(new_python(program).stdout) == [[], []]


def test_a_package_is_imported_when_it_is_built() -> None:
    program = (
        "import sys, torch, anyoptim\n"
        "model = torch.nn.Linear(2, 2)\n"
        "plan = anyoptim.plan('schedule_free_sgd', model)\n"
        "assert 'schedulefree' not in sys.modules and 'transformers' not in sys.modules\n"
        "plan.build()\n"
        "assert 'schedulefree' in sys.modules and 'transformers' not in sys.modules\n"
    )
    new_python(program)


def test_an_import_that_configures_logging_is_undone() -> None:
    """grokadamw calls logging.basicConfig(level=INFO) when it is imported."""
    program = (
        "import logging, torch, anyoptim\n"
        "anyoptim.get_optimizer('grokadamw', torch.nn.Linear(2, 2), implementation='upstream')\n"
        "root = logging.getLogger()\n"
        "assert not root.handlers and root.level == logging.WARNING, root\n"
    )
    new_python(program)


@pytest.mark.parametrize(
    ("name", "module", "pip"),
    [
        ("apollo_adamw", "apollo_torch", r"pip install 'anyoptim\[apollo\]'"),
        ("grokadamw", "grokadamw", r"pip install 'anyoptim\[grokadamw\]'"),
        ("schedule_free_sgd", "schedulefree", "pip install schedulefree"),
    ],
)
def test_a_missing_package(name: str, module: str, pip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for loaded in [each for each in sys.modules if each.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(anyoptim.MissingPackageError, match=pip) as caught:
        anyoptim.get_optimizer(name, llama(), optim_args="rank=4" if name.startswith("apollo") else None,
                               optim_target_modules="all-linear" if name.startswith("apollo") else None,
                               implementation="upstream")  # fmt: skip
    assert isinstance(caught.value, ImportError)
    spec = anyoptim.optimizer_info(name)
    assert not next(each for each in spec.implementations if each.name == "upstream").installed
    assert (name in anyoptim.list_optimizers(installed=False)) is (spec.default.name == "upstream")


def test_public_names_exist_and_have_docstrings() -> None:
    for name in anyoptim.__all__:
        thing = getattr(anyoptim, name)
        assert name == "__version__" or inspect.getdoc(thing), name
    assert set(dir(anyoptim)) == set(anyoptim.__all__)
    with pytest.raises(AttributeError):
        anyoptim.__getattr__("no_such_name")
    assert registry.ENTRY_POINT_GROUP == "anyoptim.optimizers"
