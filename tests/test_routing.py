"""Which modules are targets: as transformers selects them, on real architectures; and what we add."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import NAMES, architecture
from targets import matches, ours, routed
from torch import nn
from toys import arguments, bert, llama, lora
from transformers import LlamaConfig, LlamaForCausalLM, Trainer

import anyoptim
from anyoptim import TargetModulesError
from anyoptim.names.role import LINEAR, Role
from anyoptim.routing.structure import read_structure

PATTERNS: list[Any] = [
    "all-linear",
    "all_linear",
    ["attn", "attention"],
    ["mlp", "ffn", "fc"],
    [r".*.attn.*", r".*.mlp.*"],
    [r".*\.(q|k|v|query|key|value|q_proj|k_proj|v_proj|query_key_value|q_lin)", "0"],
    r".*(proj|dense|lin|fc|wo|out).*",
    r".*\.0\..*",
    r".*",
]


def beyond_nn_linear(model: nn.Module, target: Any) -> set[str]:
    """The linear maps that transformers does not know: Conv1D, stacks of experts, routers of their own."""
    found = set()
    for each in read_structure(model).places:
        if each.role not in LINEAR or isinstance(each.module, nn.Linear):
            continue
        names = [each.module_name] if each.name.endswith(".weight") else [each.module_name, each.name]
        if isinstance(target, str):
            chosen = target.replace("_", "-") == "all-linear" or any(re.fullmatch(target, name) for name in names)
        else:
            chosen = any(matches(item, name) for item in target for name in names)
        if chosen:
            found.add(each.name)
    return found


def theirs(model: nn.Module, target: Any, folder: Path) -> set[str]:
    args = arguments(folder, optim="apollo_adamw", optim_target_modules=target)
    _, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
    targets = {id(parameter) for parameter in kwargs["params"][1]["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in targets}


def useful(model: nn.Module, target: Any) -> Any:
    """Leave out the items of a list that choose no parameter: we refuse those, transformers ignores them."""
    if isinstance(target, str):
        return target
    names = {name for name, _ in model.named_parameters()}
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and f"{n}.weight" in names]
    return [item for item in target if any(matches(item, name) for name in linear) or beyond_nn_linear(model, [item])]


@pytest.mark.trainer
@pytest.mark.parametrize("target", PATTERNS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_targets_are_those_of_transformers(name: str, target: Any, tmp_path: Path) -> None:
    model = architecture(name)
    target = useful(model, target)
    expected: set[str] = set()
    if target:
        try:
            expected = theirs(model, target, tmp_path)
        except ValueError:
            expected = set()
    expected |= beyond_nn_linear(model, target)
    if expected:
        assert ours(model, target) == expected
    else:
        with pytest.raises(TargetModulesError):
            ours(model, target or ["nothing_is_called_so"])


@pytest.mark.trainer
@pytest.mark.parametrize("name", NAMES)
def test_exact_names_are_targets(name: str, tmp_path: Path) -> None:
    model = architecture(name)
    names = {each for each, _ in model.named_parameters()}
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and f"{n}.weight" in names]
    if linear:
        assert ours(model, linear[::2]) == theirs(model, linear[::2], tmp_path)


@pytest.mark.trainer
@pytest.mark.parametrize("name", NAMES)
def test_decay_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    model = architecture(name)
    trainer = Trainer(llama(), arguments(tmp_path))
    trainable = {each for each, parameter in model.named_parameters() if parameter.requires_grad}
    decaying = set(trainer.get_decay_parameter_names(model)) & trainable
    routes = routed(model, None, "adamw_torch").routes
    assert {each.name for each in routes if each.decays} == decaying


def test_the_first_pattern_wins() -> None:
    routing = routed(llama(), [r".*q_proj", "attn", "mlp"])
    rules = {each.name.rpartition(".")[0].rpartition(".")[2]: each.rule for each in routing.targets}
    assert rules["q_proj"] == ".*q_proj (also attn)"  # the overlap is shown
    assert rules["k_proj"] == "attn"
    assert rules["up_proj"] == "mlp"


def test_all_linear_may_end_a_list() -> None:
    assert ours(llama(), ["all-linear"]) == ours(llama(), "all-linear")
    routing = routed(llama(), ["q_proj", "all_linear"])
    assert {each.rule for each in routing.targets} == {"q_proj (also all_linear)", "all_linear"}


def test_a_shadowed_pattern_is_noted() -> None:
    routing = routed(llama(), ["attn", "q_proj"])
    assert any("'q_proj' is never used" in note for note in routing.notes)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "needs optim_target_modules: give 'all-linear'"),
        ([], "must be a regex"),
        (7, "must be a regex"),
        (["attn", 7], "must be a regex"),
        ("", "empty pattern"),
        (["attn", ""], "empty pattern"),
        ("(", "no valid regex"),
        (["*attn"], "It is no part of a module's name, either"),
        ("self_attn", "write '.*self_attn.*'"),
        ("q_proj", "write '.*q_proj'"),
        ("q_proj,v_proj", """write '["q_proj", "v_proj"]'"""),
        ("q_proj, v_porj", "Did you mean"),
        ("q_porj", "Did you mean '.*q_proj'"),
        ('["q_porj"]', "Did you mean 'q_proj'"),
        ("[]", "must be a regex"),
        ('["attn", 7]', "must be a regex"),
        (["atention"], "matches no module"),
        (["q_porj"], "Did you mean 'q_proj'"),
        ("all-linar", "Did you mean 'all-linear'"),
        (["norm"], "(a LlamaRMSNorm) and no trainable matrix that apollo_adamw can take"),
        ("hidden-matrix", "Did you mean 'hidden-matrices'"),
    ],
)
def test_patterns_that_choose_nothing(target: Any, message: str) -> None:
    with pytest.raises(TargetModulesError, match=re.escape(message)):
        routed(llama(), target)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ('["q_proj","v_proj"]', ["q_proj", "v_proj"]),
        (' ["attn"] ', ["attn"]),
        ('["q_proj", "v_proj"]', ["q_proj", "v_proj"]),
        (".*q_proj", ["q_proj"]),
        (".*self_attn.*", ["self_attn"]),
        ("[a-z0-9._]*q_proj", ["q_proj"]),
    ],
)
def test_what_a_command_line_can_write(text: str, meant: list[str]) -> None:
    assert ours(llama(), text) == ours(llama(), meant)


def test_a_model_without_hidden_matrices() -> None:
    model = nn.Sequential(nn.Embedding(8, 4), nn.LayerNorm(4))
    for name in ("muon", "muon+lion"):
        with pytest.raises(TargetModulesError, match="the model has no hidden matrix") as caught:
            anyoptim.plan(name, model)
        assert "Did you mean" not in str(caught.value)


def test_a_model_without_linear_layers() -> None:
    with pytest.raises(TargetModulesError, match="no linear map that it can take"):
        routed(nn.Sequential(nn.LayerNorm(4), nn.Conv2d(3, 4, 1)), "all-linear")


def test_frozen_targets() -> None:
    model = llama()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.requires_grad_(False)
    with pytest.raises(TargetModulesError, match="frozen"):
        ours(model, "all-linear")
    model.lm_head.weight.requires_grad_(True)
    assert ours(model, "all-linear") == {"lm_head.weight"}


def test_a_tied_head_is_left_out_and_said() -> None:
    model = bert()
    routing = routed(model, "all-linear")
    assert any("shared with bert.embeddings.word_embeddings.weight" in note for note in routing.notes)
    with pytest.raises(TargetModulesError, match="shared with"):
        ours(model, ["predictions.decoder"])


def test_modules_of_gpt2_are_targets() -> None:
    model = architecture("GPT2LMHeadModel")
    assert ours(model, ["attn"]) == {
        f"transformer.h.{layer}.attn.{name}.weight" for layer in (0, 1) for name in ("c_attn", "c_proj")
    }
    assert "transformer.wte.weight" not in ours(model, "all-linear")  # the head is the embedding


def test_an_embedding_or_a_convolution_is_a_target_when_it_is_named_alone() -> None:
    assert ours(llama(), ["embed_tokens", "q_proj"]) >= {"model.embed_tokens.weight"}
    assert "model.embed_tokens.weight" not in ours(llama(), ".*")
    vit = architecture("ViTForImageClassification")
    with pytest.raises(TargetModulesError, match="a Conv2d"):
        ours(vit, ["patch_embeddings"])
    chosen = routed(vit, ["patch_embeddings"], "sgd+adamw_torch").targets
    assert [each.name for each in chosen] == ["vit.embeddings.patch_embeddings.projection.weight"]


@pytest.mark.parametrize("name", NAMES)
def test_hidden_matrices_are_neither_embedding_nor_head_nor_router(name: str) -> None:
    roles = {each.role for each in routed(architecture(name), "hidden-matrices").targets}
    assert roles in ({Role.HIDDEN_MATRIX}, {Role.HIDDEN_MATRIX, Role.EXPERT_STACK})


def test_patterns_for_the_bare_model_find_its_adapters() -> None:
    model = lora(target_modules=["q_proj", "v_proj"])
    adapters = {each for each, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(adapters) == 8
    assert ours(model, r"model\.layers\.\d+\.self_attn\.(q|v)_proj") == adapters
    assert ours(model, ["model.layers.0.self_attn.q_proj"]) == {
        each for each in adapters if "0.self_attn.q_proj" in each
    }
    assert ours(model, ["lora_A"]) == {each for each in adapters if "lora_A" in each}
    assert ours(model, "all-linear") == adapters
    with pytest.raises(TargetModulesError, match=r"set optim_target_modules=\['lora_A', 'lora_B'\]"):
        anyoptim.plan("muon", model)
    assert len(routed(model, ["lora_A", "lora_B"], "muon").targets) == 8


def test_a_model_without_trainable_parameters() -> None:
    model = llama().requires_grad_(False)
    for name in ("adamw_torch", "apollo_adamw", "lomo"):
        with pytest.raises(anyoptim.OptimError, match="no trainable parameter"):
            anyoptim.get_optimizer(name, model, optim_target_modules="all-linear" if name == "apollo_adamw" else None)


def test_a_large_model_plans_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=80, hidden_size=8192, intermediate_size=28672))
    plan = anyoptim.plan("apollo_adamw", model, optim_target_modules=["attn", "mlp"])
    assert len(plan.routing.targets) == 80 * 7
