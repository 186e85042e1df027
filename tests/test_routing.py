"""Which modules are targets: as transformers selects them, on real architectures; and what we add."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import NAMES, architecture
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toys import arguments, bert, llama
from transformers import LlamaConfig, LlamaForCausalLM, Trainer

import anyoptim
from anyoptim import TargetModulesError
from anyoptim.groups import make_groups
from anyoptim.routing import route
from anyoptim.text import collapse

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


def ours(model: nn.Module, target: Any) -> set[str]:
    return {each.name for each in route(model, target, takes_targets=True, optimizer="apollo_adamw").targets}


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
    return [item for item in target if any(item in name or re.fullmatch(item, name) for name in linear)]


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
    routes = route(model, None, takes_targets=False, optimizer="adamw_torch").routes
    assert {each.name for each in routes if each.decays} == decaying


def test_the_first_pattern_wins() -> None:
    routing = route(llama(), [r".*q_proj", "attn", "mlp"], takes_targets=True, optimizer="x")
    rules = {each.name.rpartition(".")[0].rpartition(".")[2]: each.rule for each in routing.targets}
    assert rules["q_proj"] == ".*q_proj"
    assert rules["k_proj"] == "attn"
    assert rules["up_proj"] == "mlp"


def test_all_linear_may_end_a_list() -> None:
    assert ours(llama(), ["all-linear"]) == ours(llama(), "all-linear")
    routing = route(llama(), ["q_proj", "all_linear"], takes_targets=True, optimizer="x")
    assert {each.rule for each in routing.targets} == {"q_proj", "all_linear"}


def test_a_shadowed_pattern_is_noted() -> None:
    routing = route(llama(), ["attn", "q_proj"], takes_targets=True, optimizer="x")
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
        (["*attn"], "no module name and no valid regex"),
        ("self_attn", "Did you mean 'self_attn'"),
        (["atention"], "matches no module"),
        (["q_porj"], "Did you mean 'q_proj'"),
        ("all-linar", "Did you mean 'all-linear'"),
        (["norm"], "a LlamaRMSNorm, not nn.Linear"),
        (["embed_tokens"], "a Embedding, not nn.Linear"),
    ],
)
def test_patterns_that_choose_nothing(target: Any, message: str) -> None:
    with pytest.raises(TargetModulesError, match=re.escape(message)):
        route(llama(), target, takes_targets=True, optimizer="apollo_adamw")


def test_a_model_without_linear_layers() -> None:
    with pytest.raises(TargetModulesError, match=r"no nn\.Linear"):
        route(nn.Sequential(nn.Embedding(3, 4)), "all-linear", takes_targets=True, optimizer="apollo_adamw")


def test_frozen_targets() -> None:
    model = llama()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.requires_grad_(False)
    with pytest.raises(TargetModulesError, match="frozen"):
        route(model, "all-linear", takes_targets=True, optimizer="apollo_adamw")
    model.lm_head.weight.requires_grad_(True)
    assert ours(model, "all-linear") == {"lm_head.weight"}


def test_a_tied_head_is_left_out_and_said() -> None:
    model = bert()
    routing = route(model, "all-linear", takes_targets=True, optimizer="apollo_adamw")
    assert any("shared with bert.embeddings.word_embeddings.weight" in note for note in routing.notes)
    with pytest.raises(TargetModulesError, match="shared with"):
        ours(model, ["predictions.decoder"])


@pytest.mark.parametrize("name", ["MixtralForCausalLM", "Qwen3MoeForCausalLM"])
def test_stacked_experts_are_said_not_to_be_reached(name: str) -> None:
    model = architecture(name)
    if not any(parameter.dim() == 3 for parameter in model.parameters()):
        pytest.skip("this transformers keeps experts as separate linear layers")
    routing = route(model, "all-linear", takes_targets=True, optimizer="apollo_adamw")
    assert any("experts.gate_up_proj" in note and "% of the model" in note for note in routing.notes)


def test_a_model_without_trainable_parameters() -> None:
    model = llama().requires_grad_(False)
    for name in ("adamw_torch", "apollo_adamw", "lomo"):
        with pytest.raises(anyoptim.OptimError, match="no trainable parameter"):
            anyoptim.get_optimizer(name, model, optim_target_modules="all-linear" if name == "apollo_adamw" else None)


@st.composite
def module_trees(draw: st.DrawFn, depth: int = 3) -> nn.Module:
    kind = draw(st.sampled_from(["linear", "norm", "embedding", "frozen", "tree", "tree"]))
    if depth == 0 or kind != "tree":
        leaf: nn.Module = {
            "norm": nn.LayerNorm(2),
            "embedding": nn.Embedding(2, 2),
        }.get(kind, nn.Linear(2, 2))
        return leaf.requires_grad_(kind != "frozen")
    tree = nn.Module()
    for name in draw(st.lists(st.sampled_from(["a", "b", "attn", "mlp", "norm", "0"]), max_size=4, unique=True)):
        tree.add_module(name, draw(module_trees(depth=depth - 1)))
    return tree


@given(
    module_trees(),
    st.lists(st.sampled_from(["a", "b", "attn", "mlp", r".*a.*", r"b\..*", "0"]), min_size=1, max_size=4),
)
def test_each_trainable_parameter_is_in_exactly_one_group(model: nn.Module, patterns: list[str]) -> None:
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.weight.requires_grad}

    def matches(item: str, name: str) -> bool:
        return item in name or re.fullmatch(item, name) is not None

    def make() -> list[Any]:
        overrides = {"rank": 1, "optim_target_modules": patterns}
        plan = anyoptim.plan("apollo_adamw", model, weight_decay=0.1, **overrides)
        return make_groups(plan.routing, plan.settings)

    if not wanted or any(not any(matches(item, name) for name in linear) for item in patterns):
        with pytest.raises(anyoptim.OptimError):
            make()
        return
    groups = make()
    placed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(placed) == sorted(map(id, wanted))
    targets = {id(parameter) for group in groups if "rank" in group for parameter in group["params"]}
    assert targets == {
        id(module.weight) for name, module in linear.items() if any(matches(item, name) for item in patterns)
    }


def test_groups_are_split_by_device_mesh() -> None:
    """One process with gloo is enough for two meshes; the Trainer splits its own groups alike."""
    from torch.distributed.tensor import Replicate, distribute_tensor, init_device_mesh

    torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    try:
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
        for index, shape in ((0, (1,)), (1, (1, 1))):
            mesh = init_device_mesh("cpu", shape)
            weight = distribute_tensor(model[index].weight.data, mesh, [Replicate()] * len(shape))
            model[index].weight = nn.Parameter(weight)
        groups = anyoptim.plan("adamw_torch", model, weight_decay=0.1).groups
        assert [len(group["params"]) for group in groups] == [1, 1, 1, 0]
        assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.1, 0.0]
    finally:
        torch.distributed.destroy_process_group()


def test_layers_are_written_as_ranges() -> None:
    names = [f"layers.{layer}.{part}.weight" for layer in range(12) for part in ("q", "k")] + ["head.weight"]
    assert [(text, len(members)) for text, members in collapse(names)] == [
        ("layers.{0..11}.q.weight", 12),
        ("layers.{0..11}.k.weight", 12),
        ("head.weight", 1),
    ]
    assert [text for text, _ in collapse(["a.0.w", "a.2.w"])] == ["a.{0,2}.w"]


def test_a_large_model_plans_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=80, hidden_size=8192, intermediate_size=28672))
    plan = anyoptim.plan("apollo_adamw", model, optim_target_modules=["attn", "mlp"])
    assert len(plan.routing.targets) == 80 * 7
