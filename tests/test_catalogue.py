"""The catalogue: which names there are, that they are data, what they take, and what is mended of other packages."""

from __future__ import annotations

import ast
import copy
import importlib.util
import inspect
import json
import os
import pickle
import random
import re
import subprocess
import sys
import textwrap
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from chosen import chosen, parameters
from processes import new_python
from toys import arguments, data, inner, llama, plain_steps, same_weights, train, weights
from transformers import Trainer
from transformers.training_args import OptimizerNames

import anyoptim
from anyoptim.catalog._index import FOLDER, read_index
from anyoptim.names import lookup, registry
from anyoptim.names.hyperparameters import REQUIRED
from anyoptim.names.role import EMBEDDINGS
from anyoptim.testing import CHECKS, check_optimizer
from anyoptim.testing.kit import impossible
from anyoptim.testing.subject import Subject, tiny_model

ROOT = Path(__file__).parent.parent
ALL = [name for name in anyoptim.list_optimizers() if not name.startswith("example_")]
SPECS = {name: anyoptim.optimizer_info(name) for name in ALL}
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


# ---------------------------------------------------------------- what is there and what is not


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adamw_torch_xla", "pip install torch-xla"),
        ("adamw_torch_npu_fused", "pip install torch-npu"),
        ("adamw_anyprecision", "github.com/pytorch/torchdistx"),
        ("timm/fusedadam", "github.com/NVIDIA/apex"),
        ("cpu_offload(adamw_torch)", "needs a CUDA GPU"),
        ("sparse_adam", "sparse gradients only"),
        ("pytorch_optimizer/lomo", "take lomo or adalomo"),
        ("pytorch_optimizer/demo", "launch with torchrun"),
        ("pytorch_optimizer/bsam", "needs num_data: give it in optim_args"),
    ],
)
def test_what_cannot_be_built_here_says_why(name: str, message: str) -> None:
    with pytest.raises(anyoptim.OptimError, match=message):
        anyoptim.get_optimizer(name, llama())


def test_timm_is_imported_without_torchvision() -> None:
    program = (
        "import sys, torch, anyoptim\n"
        "optimizer = anyoptim.get_optimizer('timm/lamb', torch.nn.Linear(2, 2))\n"
        "print(type(optimizer).__module__, 'timm' in sys.modules, 'torchvision' in sys.modules)\n"
    )
    assert new_python(program).stdout.split() == ["timm.optim.lamb", "False", "False"]


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


# ---------------------------------------------------------------- parity with transformers

OF_BITSANDBYTES_AND_TORCHAO = [
    "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "lion_8bit", "lion_32bit",
    "paged_lion_8bit", "paged_lion_32bit", "ademamix", "ademamix_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit",
    "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "adamw_torch_8bit", "adamw_torch_4bit",
]  # fmt: skip


@pytest.mark.parametrize("name", OF_BITSANDBYTES_AND_TORCHAO)
def test_what_transformers_builds_is_built_the_same(name: str, tmp_path: Path) -> None:
    fields = {"optim": name, "learning_rate": 1e-3, "weight_decay": 0.1, "max_steps": 5, "adam_beta2": 0.95}
    theirs = train(_with_large_matrices(), arguments(tmp_path, **fields))
    with anyoptim.enable():
        mine = train(_with_large_matrices(), arguments(tmp_path, **fields))
    assert (
        type(inner(mine.optimizer)).__mro__[0].__module__.partition(".")[0]
        == (type(inner(theirs.optimizer)).__module__.partition(".")[0])
    )
    assert same_weights(weights(mine.model), weights(theirs.model))


def _with_large_matrices() -> Any:
    """Matrices of 4096 elements and more, the smallest whose state these packages quantize."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                    max_position_embeddings=64, tie_word_embeddings=False)
    )  # fmt: skip


# ---------------------------------------------------------------- what is mended


@pytest.mark.parametrize("name", ["adamw_8bit", "lion_8bit", "paged_adamw_8bit"])
def test_embeddings_keep_32_bits(name: str) -> None:
    model = _with_large_matrices()
    optimizer = anyoptim.get_optimizer(name, model)
    roles = {route.parameter: route.role for route in anyoptim.plan(name, model).routing.routes}  # type: ignore[union-attr]  # there is a model
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for parameter, state in optimizer.state.items():
        expected = torch.float32 if roles[parameter] in EMBEDDINGS or parameter.numel() < 4096 else torch.uint8
        assert state["state1"].dtype is expected


def test_two_bitsandbytes_optimizers_do_not_share_exceptions() -> None:
    """By the place of a parameter in its group, the embedding of one model would be a matrix of the other."""
    first = _with_large_matrices()
    second = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False), torch.nn.Embedding(256, 64))
    for model in (first, second):
        optimizer = anyoptim.get_optimizer("adamw_8bit", model)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert optimizer.state[second[0].weight]["state1"].dtype is torch.uint8
    assert optimizer.state[second[1].weight]["state1"].dtype is torch.float32


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


@pytest.mark.parametrize("name", ["rmsprop_bnb_8bit", "adamw_8bit"])
def test_the_embeddings_are_where_transformers_leaves_them(name: str, tmp_path: Path, enabled: None) -> None:
    """Source: tests/trainer of transformers, test_bnb_8bit_optimizer_skip_embedding."""
    optimizer = Trainer(llama(), arguments(tmp_path, optim=name)).create_optimizer()
    ((module, parameter_name, config),) = optimizer.mng.module_weight_config_triple
    assert isinstance(module, torch.nn.Embedding)
    assert (parameter_name, config) == ("weight", {"optim_bits": 32})


@pytest.mark.parametrize("fused", [False, True])
def test_exceptions_that_the_user_gave_bitsandbytes_apply(fused: bool) -> None:
    from bitsandbytes.optim import GlobalOptimManager

    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    shared = GlobalOptimManager.get_instance()
    shared.register_module_override(model[0], "weight", {"optim_bits": 32})
    try:
        optimizer = anyoptim.get_optimizer("adamw_8bit", model, fused_backward=fused)
        shared.override_config(model[1].weight, "optim_bits", 32)
        model(torch.ones(1, 64)).sum().backward()
        optimizer.step()
    finally:
        shared.initialize()
    dtypes = [optimizer.state[each.weight]["state1"].dtype for each in model]
    assert dtypes == [torch.float32, torch.float32, torch.uint8]


def test_a_fused_step_of_bitsandbytes_where_the_first_group_is_empty() -> None:
    model = torch.nn.Sequential(torch.nn.LayerNorm(64))
    optimizer = anyoptim.get_optimizer("adamw_8bit", model, lr=1e-2, fused_backward=True)
    model(torch.randn(3, 64)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, torch.ones(64))


@pytest.mark.parametrize("name", ["adamw_8bit", "timm/bnbadamw", "pytorch_optimizer/adafactor"])
def test_copies_and_load_hooks_of_packages_that_load_in_their_own_way(name: str) -> None:
    assert check_optimizer(name, checks=["deepcopy and pickle", "load hooks"])


def _opens_a_file(path: Path) -> bytes:
    class Opens:
        def __reduce__(self) -> Any:
            return open, (str(path), "w")

    return pickle.dumps(Opens())


def test_heavyball_state_is_not_unpickled(tmp_path: Path) -> None:
    model = llama()
    optimizer = anyoptim.get_optimizer("heavyball/soap", model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = optimizer.state_dict()
    assert "precond_schedule" not in state["heavyball"]
    torch.save(state, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state["heavyball"]["precond_schedule"] = _opens_a_file(tmp_path / "opened")
    optimizer.load_state_dict(state)
    assert not (tmp_path / "opened").exists()


def test_heavyball_does_not_compile_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import heavyball.utils

    def compile_(*_: object, **__: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(heavyball.utils.fusions, "compile", compile_)
    before = heavyball.utils.compile_mode
    assert before is not None
    model = torch.nn.Linear(4, 4)
    optimizer = anyoptim.get_optimizer("heavyball/laprop", model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert heavyball.utils.compile_mode is before


@pytest.mark.parametrize("name", ["stable_adamw", "optimi/lion"])
def test_optimi_stays_off_triton_on_a_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import optimi.utils

    monkeypatch.setattr(optimi.utils, "HAS_TRITON", True)
    monkeypatch.setattr(optimi.utils, "_triton_kernels_supported_device", lambda _: True)
    model = torch.nn.Linear(4, 4)
    optimizer = anyoptim.get_optimizer(name, model, lr=1e-3)
    before = model.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert {group["triton"] for group in optimizer.param_groups} == {False}
    assert not torch.equal(before, model.weight)


def test_state_that_belongs_to_no_parameter_survives_the_trainer(tmp_path: Path, enabled: None) -> None:
    """SPAM counts its steps in its state, under a name."""
    args = arguments(tmp_path, optim="pytorch_optimizer/spam", learning_rate=1e-3, max_steps=3)
    trainer = Trainer(llama(), args, train_dataset=data())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    assert inner(trainer.optimizer).state["total_step"] == 3


@pytest.mark.parametrize("name", ["pytorch_optimizer/prodigy", "prodigy"])
def test_the_rate_of_prodigy_is_the_one_that_is_asked_for(name: str) -> None:
    optimizer = anyoptim.get_optimizer(name, llama(), lr=0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_objects_in_state_are_plain_values_and_only_the_packages_own_are_made_again() -> None:
    models = [llama(), llama()]
    first, second = (
        anyoptim.get_optimizer("pytorch_optimizer/galore", model, {"optim_target_modules": "all-linear"},
                               optim_args="rank=4", lr=1e-3)
        for model in models
    )  # fmt: skip
    _step(models[0], first)
    state = copy.deepcopy(first.state_dict())
    projected = next(held["projector"] for held in state["state"].values() if "projector" in held)
    (kind,) = projected
    assert kind == "object of pytorch_optimizer.optimizer.utils.galore:GaLoreProjector"
    assert projected[kind]["projection_type"] == "std"
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(state)
    for model, optimizer in zip(models, (first, second), strict=True):
        _step(model, optimizer)
    assert same_weights(weights(models[0]), weights(models[1]))
    index = next(index for index, held in state["state"].items() if "projector" in held)
    state["state"][index]["projector"] = {"object of subprocess:Popen": {"args": "true"}}
    second.load_state_dict(state)
    with pytest.raises(AttributeError, match="'dict' object"):
        _step(models[1], second)


def _step(model: torch.nn.Module, optimizer: Any) -> None:
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


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


@pytest.mark.parametrize("name", [each for each in ALL if SPECS[each].package == "pytorch_optimizer"])
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
