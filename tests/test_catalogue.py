"""The catalogue: which names there are, and that they are data."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from chosen import SPECS, chosen, parameters
from processes import new_python
from toys import arguments, llama, train
from transformers.training_args import OptimizerNames

import anyoptim
from anyoptim.catalog._index import FOLDER, read_index
from anyoptim.names import lookup, registry
from anyoptim.names.hyperparameters import REQUIRED
from anyoptim.testing import CHECKS
from anyoptim.testing.kit import impossible
from anyoptim.testing.subject import Subject, tiny_model

ROOT = Path(__file__).parent.parent
ALL = list(SPECS)
PACKAGES = sorted(path.stem for path in FOLDER.glob("*.json"))


def test_there_are_more_than_four_hundred_names() -> None:
    assert len(registry.known_names()) > 400
    assert len(ALL) > 370


def test_every_name_of_transformers_is_known() -> None:
    names = [member.value for member in OptimizerNames]
    assert len(names) >= 41
    assert [name for name in names if not lookup.is_known(name)] == []


@pytest.mark.parametrize(
    "name",
    ["lion", "adan", "adopt", "soap", "came", "prodigy", "adam_mini", "lamb", "lars", "mars", "ademamix", "adamw_8bit",
     "adam", "nadam", "radam", "adamax", "adadelta", "lbfgs", "adabelief", "adamp", "madgrad", "laprop", "kron",
     "shampoo", "adahessian", "sophia", "tiger", "yogi", "ranger", "novograd", "scion", "adafactor", "sgdw"],
)  # fmt: skip
def test_well_known_names_are_bare(name: str) -> None:
    spec = anyoptim.optimizer_info(name)
    assert spec.name == name
    prefixed = [alias for alias in spec.aliases if "/" in alias]
    assert spec.default.name == "native" or name == "adafactor" or prefixed
    assert all(anyoptim.optimizer_info(alias) is spec for alias in spec.aliases)
    planned = str(anyoptim.plan(name, tiny_model()))
    assert spec.package in planned  # which package it is


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("optimi_adamw", "optimi/adamw"),
        ("ao_adamw_8bit", "adamw_torch_8bit"),
        ("ao_adamw_4bit", "torchao/adamw_4bit"),
        ("ao_adamw_fp8", "torchao/adamw_fp8"),
        ("adopt_adamw", "adopt"),
        ("came_pytorch", "came_pytorch/came"),
        ("adamw_bnb_8bit", "adamw_8bit"),
        ("bitsandbytes/adamw_8bit", "adamw_8bit"),
        ("torch/adamw", "adamw_torch"),
    ],
)
def test_names_of_axolotl_and_others(alias: str, name: str) -> None:
    assert anyoptim.optimizer_info(alias).name == name


@pytest.mark.parametrize("name", ALL)
def test_a_spec_says_what_it_is(name: str) -> None:
    spec = SPECS[name]
    assert spec.summary
    assert len(spec.summary) <= 140
    assert spec.licence
    assert spec.default.pip_install
    assert spec.hyperparameters
    rate = next((each.default for each in spec.hyperparameters if each.name == "lr"), None)
    if spec.usual_lr:
        low, high = spec.usual_lr
        assert low < high
        if isinstance(rate, float) and rate > 0 and spec.package not in ("timm", "torch"):
            assert low <= rate <= high


@pytest.mark.parametrize("name", [name for name in ALL if not SPECS[name].is_wrapper])
def test_arguments_are_strict_where_constructors_swallow_everything(name: str) -> None:
    accepted = {each.name for each in SPECS[name].hyperparameters}
    assert "kwargs" not in accepted
    with pytest.raises(anyoptim.OptimArgsError, match="has no hyperparameter 'no_such_key'"):
        anyoptim.parse_optim_args("no_such_key=1", name)
    required = [each.name for each in SPECS[name].hyperparameters if each.default is REQUIRED and not each.taken_from]
    assert required in ([], ["num_data"], ["lr"])


def test_listing_imports_no_package() -> None:
    packages = sorted({*PACKAGES, "apollo_torch", "galore_torch", "lomo_optim", "grokadamw", "numpy", "transformers"})
    program = (
        "import anyoptim, sys, json\n"
        "for name in anyoptim.list_optimizers(): name.startswith('example_') or anyoptim.optimizer_info(name)\n"
        "anyoptim.parse_optim_args('betas=(0.9,0.95)', 'pytorch_optimizer/adan')\n"
        f"print(json.dumps([each for each in {packages} if each in sys.modules]))\n"
    )
    assert json.loads(new_python(program).stdout) == []


def test_a_spec_is_made_when_it_is_asked_for() -> None:
    program = (
        "import anyoptim\n"
        "from anyoptim.catalog._algorithms import algorithms\n"
        "from anyoptim.names import registry, spelling\n"
        "def state():\n"
        "    unmade = [each for each in registry._specs.values() if isinstance(each, registry.Unmade)]\n"
        "    return len(unmade), algorithms.cache_info().currsize\n"
        "assert registry.known_names()\n"
        "before = state()\n"
        "assert before[0] > 300 and before[1] == 0, before\n"
        "anyoptim.optimizer_info('muon')\n"
        "assert 'lion' in str(spelling.unknown('lionn', registry.known_names()))\n"
        "anyoptim.enable()\n"
        "assert state() == before, state()\n"
        "assert anyoptim.optimizer_info('soap') is anyoptim.optimizer_info('heavyball/soap')\n"
        "assert state() == (before[0] - 1, 1), state()\n"
    )
    new_python(program)


@pytest.mark.slow
@pytest.mark.parametrize("module", PACKAGES)
def test_the_index_is_that_of_the_installed_package(module: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "catalogue.py"), "--check", module],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert read_index(module)["version"] == version(str(read_index(module)["package"]))


def test_no_package_is_named_in_code() -> None:
    """Facts about names are data in the catalogue: no branch goes by a name or a package."""
    words = [f'"{each}"' for each in (*PACKAGES, *(name for name in ALL if "/" in name)) if each != "torch"]
    for path in (ROOT / "src" / "anyoptim").rglob("*.py"):
        if "catalog" in path.parts or path.name == "demo.py":
            continue
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            branches = line.strip().startswith(("if ", "elif ", "match ", "case "))
            assert not (branches and any(word in line for word in words)), f"{path.name}: {line}"


def test_the_matrix_says_that_most_names_train_and_resume() -> None:
    """It is measured by make matrix, which make test repeats; a name that is missing there was never checked."""
    matrix = json.loads((ROOT / "docs" / "matrix.json").read_text(encoding="utf-8"))
    names = matrix["names"]
    both = [
        name
        for name, entry in names.items()
        if all(entry["checks"][each][0] == "pass" for each in ("trains", "resume"))
    ]
    assert len(both) >= 350
    assert {status for entry in names.values() for status, _ in entry["checks"].values()} <= {"pass", "limit", "n/a"}
    elsewhere = {name for name in ALL if SPECS[name].default.device or not SPECS[name].installed}
    assert set(names) == set(ALL) - elsewhere
    assert all(set(entry["checks"]) == set(CHECKS) for entry in names.values())
    loader = importlib.util.spec_from_file_location("matrix", ROOT / "tools" / "matrix.py")
    assert loader and loader.loader
    tool = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(tool)
    assert tool.page(matrix) == (ROOT / "docs" / "matrix.md").read_text(encoding="utf-8")


# ---------------------------------------------------------------- licences


def test_licences_that_forbid_commercial_use() -> None:
    forbidden = anyoptim.list_optimizers(commercial=False)
    assert forbidden == ["apollo_torch/apollo_adamw"]
    assert set(ALL) - set(anyoptim.list_optimizers(commercial=True)) == set(forbidden)


def test_a_licence_that_forbids_commercial_use_is_said_once() -> None:
    program = (
        "import warnings, torch, anyoptim\n"
        "model = torch.nn.Sequential(torch.nn.Linear(8, 8))\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    for name in ('apollo_torch/apollo_adamw', 'apollo_adamw', 'apollo_torch/apollo_adamw'):\n"
        "        anyoptim.get_optimizer(name, model, optim_args='rank=4', optim_target_modules='all-linear')\n"
        "print(sum('CC-BY-NC-4.0: not for commercial use' in str(each.message) for each in caught))\n"
    )
    assert new_python(program).stdout.strip() == "1"


# ---------------------------------------------------------------- what a plan makes of them


def test_values_come_from_the_model_and_from_training_arguments() -> None:
    planned = anyoptim.plan("adam_mini", llama())
    assert {key: planned.hyperparameters[key].value for key in ("dim", "n_heads", "n_kv_heads")} == {
        "dim": 32,
        "n_heads": 2,
        "n_kv_heads": 2,
    }
    assert planned.hyperparameters["dim"].source == "model config"
    ranger = anyoptim.plan("pytorch_optimizer/ranger21", llama(), {"max_steps": 77})
    assert (ranger.hyperparameters["num_iterations"].value, ranger.hyperparameters["num_iterations"].source) == (
        77,
        "TrainingArguments",
    )
    with pytest.raises(anyoptim.OptimArgsError, match="needs num_iterations"):
        anyoptim.plan("pytorch_optimizer/ranger21", llama())


def test_muon_like_flags_reach_the_groups() -> None:
    for name, key, on_matrices in (("pytorch_optimizer/muon", "use_muon", True), ("timm/muon", "use_fallback", False)):
        model = llama()
        optimizer = anyoptim.get_optimizer(name, model)
        names = {parameter: each for each, parameter in model.named_parameters()}
        flags = {names[each]: group[key] for group in optimizer.param_groups for each in group["params"]}
        for parameter, flag in flags.items():
            assert flag is (on_matrices if "_proj" in parameter else not on_matrices), parameter


PLANNABLE = [
    name for name, spec in SPECS.items() if spec.installed and not spec.default.device and not impossible(spec)
]


def _generators() -> tuple[object, ...]:
    kind, numbers, *rest = np.random.get_state()
    return random.getstate(), kind, numbers.tobytes(), *rest, bytes(torch.get_rng_state().tolist())


@pytest.mark.parametrize("name", parameters(PLANNABLE, {*chosen(PLANNABLE), "pytorch_optimizer/kron"}))
def test_planning_moves_no_generator(name: str) -> None:
    subject = Subject(name)
    model = subject.model()
    before = _generators()
    assert subject.plan(model).memory.method
    assert _generators() == before


def test_every_default_is_within_its_range() -> None:
    for name, spec in SPECS.items():
        for own in spec.implementations:
            for each in own.hyperparameters:
                assert each.within is None or each.within.outside(each.default) is None, (name, each)


@pytest.mark.parametrize("name", ["adamw_torch_8bit", "pytorch_optimizer/kron", "heavyball/adamw", "lookahead(lion)"])
def test_the_record_of_a_run_is_plain(name: str, tmp_path: Path, enabled: None) -> None:
    args = arguments(tmp_path, optim=name, learning_rate=1e-3, max_steps=2, save_strategy="steps", save_steps=2)
    trainer = train(llama(), args)
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    attributes = state["stateful_callbacks"]["OptimizerRecord"]["attributes"]
    assert attributes["name"] == anyoptim.optimizer_info(name).name
    assert attributes["hyperparameters"]["lr"] == pytest.approx(1e-3)
    assert all(isinstance(row["learning_rate"], float) for row in trainer.state.log_history if "loss" in row)


def test_only_schedule_free_optimizers_take_the_warmup_of_training_arguments() -> None:
    """Elsewhere the schedule warms up; an optimizer's own warmup would do so again."""
    fields = {"warmup_steps": 7, "max_steps": 100}
    assert anyoptim.plan("heavyball/adamw", llama(), fields).hyperparameters["warmup_steps"].value == 0
    assert anyoptim.plan("heavyball/sfadamw", llama(), fields).hyperparameters["warmup_steps"].value == 7
    assert anyoptim.plan("heavyball/adamw", llama(), fields, warmup_steps=3).hyperparameters["warmup_steps"].value == 3
