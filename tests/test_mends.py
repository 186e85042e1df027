"""What is mended of other packages' optimizers, and how transformers' own are built."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import new_python
from toys import arguments, data, inner, llama, same_weights, train, weights
from transformers import Trainer

import anyoptim
from anyoptim.names.role import EMBEDDINGS
from anyoptim.testing import check_optimizer

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
    assert projected[kind]["projection_type"] == {"text std": True}  # torch casts text that it loads
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
