"""Which modules are targets: as transformers selects them, on real architectures; and what we add."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import NAMES, architecture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import arguments, bert, llama, lora, plain_steps, weights
from transformers import LlamaConfig, LlamaForCausalLM, Trainer
from transformers.pytorch_utils import Conv1D

import anyoptim
from anyoptim import TargetModulesError
from anyoptim.names.role import LINEAR, Role
from anyoptim.routing.routes import Routing
from anyoptim.routing.structure import read_structure
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
    return {each.name for each in routed(model, target).targets}


def routed(model: nn.Module, target: Any, name: str = "apollo_adamw", **overrides: Any) -> Routing:
    routing = anyoptim.plan(name, model, optim_target_modules=target, **overrides).routing
    assert routing is not None
    return routing


def matches(item: str, name: str) -> bool:
    return item in name or re.fullmatch(item, name) is not None


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
        (["*attn"], "no module name and no valid regex"),
        ("self_attn", "write '.*self_attn.*'"),
        ("q_proj", "write '.*q_proj'"),
        ("q_proj,v_proj", """write '["q_proj", "v_proj"]'"""),
        ("q_proj, v_porj", "Did you mean"),
        ("q_porj", "Did you mean 'q_proj'"),
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


MOE = ["MixtralForCausalLM", "Qwen3MoeForCausalLM", "DeepseekV3ForCausalLM", "GptOssForCausalLM"]


@pytest.mark.parametrize("name", MOE)
def test_experts_are_targets(name: str) -> None:
    model = architecture(name)
    stacks = {each for each, parameter in model.named_parameters() if parameter.dim() == 3}
    assert stacks
    for target in (
        [r".*mlp.*"],
        ["mlp"],
        ["experts"],
        "all-linear",
        "hidden-matrices",
        [r".*\.gate_up_proj", "down_proj"],
    ):
        assert stacks <= ours(model, target), target
    planned = anyoptim.plan("apollo_adamw", model, optim_target_modules=["attn"])
    assert any("expert stacks such as" in each and "% of the model) are no targets" in each for each in planned.advice)
    planned = anyoptim.plan("apollo_adamw", model, optim_target_modules="all-linear", implementation="upstream")
    assert any("the upstream implementation cannot take them" in each for each in planned.advice)


def test_state_of_a_moe_model_falls_as_the_shapes_say() -> None:
    model, rank = architecture("Qwen3MoeForCausalLM"), 4
    planned = anyoptim.plan("apollo_adamw", model, optim_target_modules="all-linear", rank=rank)
    expected = 0
    for name, parameter in model.named_parameters():
        *stack, rows, columns = (1, *parameter.shape) if parameter.dim() == 1 else parameter.shape
        matrices = stack[0] if stack else 1
        if parameter.dim() == 1 or "embed" in name:
            expected += 2 * parameter.numel()
        else:  # two moments of the short side, and the limiter's norm
            expected += matrices * (2 * max(rows, columns) * rank + 1)
    assert planned.state_bytes == 4 * expected
    adamw = anyoptim.plan("adamw_torch", model).state_bytes
    assert adamw is not None and planned.state_bytes < adamw / 4


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


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(3, 2, 2))


LEAVES: dict[str, Any] = {
    "linear": lambda: nn.Linear(2, 2),
    "frozen": lambda: nn.Linear(2, 2).requires_grad_(False),
    "conv1d": lambda: Conv1D(2, 2),
    "experts": Experts,
    "norm": lambda: nn.LayerNorm(2),
    "embedding": lambda: nn.Embedding(2, 2),
    "convolution": lambda: nn.Conv2d(2, 2, 1),
}
NAMES_OF_MODULES = ["a", "b", "attn", "mlp", "norm", "0"]


@st.composite
def module_trees(draw: st.DrawFn, depth: int = 3) -> nn.Module:
    kind = draw(st.sampled_from([*LEAVES, *["tree"] * 5]))
    if depth == 0 or kind != "tree":
        return LEAVES[kind if kind != "tree" else "linear"]()
    tree = nn.Module()
    for name in draw(st.lists(st.sampled_from(NAMES_OF_MODULES), max_size=4, unique=True)):
        tree.add_module(name, draw(module_trees(depth=depth - 1)))
    modules = list(tree.children())
    if modules and draw(st.booleans()) and draw(st.booleans()):  # a module under two names
        tree.add_module("again", modules[0])
    return tree


def first_match(model: nn.Module, patterns: list[str]) -> dict[str, str] | None:
    """Which pattern chooses which parameter; ``None`` where one chooses nothing."""
    kinds: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            alone = isinstance(module, nn.Embedding)
            if parameter.requires_grad and (alone or (own in ("weight", "weights") and type(module) in MATRICES)):
                full = f"{name}.{own}".lstrip(".")
                kinds[alone][full] = [name, full] if own == "weights" else [name]
    winners: dict[str, str] = {}
    for item in patterns:
        linear, embeddings = (
            [p for p, names in kind.items() if any(matches(item, n) for n in names)] for kind in kinds
        )
        if not (linear or embeddings):
            return None
        for parameter_name in linear or embeddings:
            winners.setdefault(parameter_name, item)
    return winners


MATRICES = (nn.Linear, Conv1D, Experts)
ITEMS = st.sampled_from(["a", "b", "attn", "mlp", r".*a.*", r"b\..*", "0", "weights", r".*\.weights"])


@settings(max_examples=300)
@given(module_trees(), st.lists(ITEMS, min_size=1, max_size=4))
def test_each_trainable_parameter_is_in_exactly_one_group(model: nn.Module, patterns: list[str]) -> None:
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = first_match(model, patterns)
    if not wanted or expected is None:
        with pytest.raises(anyoptim.OptimError):
            routed(model, patterns)
        return
    planned = anyoptim.plan("apollo_adamw", model, weight_decay=0.1, rank=1, optim_target_modules=patterns)
    assert planned.routing is not None
    placed = [id(parameter) for group in planned.groups for parameter in group["params"]]
    assert sorted(placed) == sorted(map(id, wanted))
    targets = {id(parameter) for group in planned.groups if "rank" in group for parameter in group["params"]}
    named = dict(model.named_parameters())
    assert targets == {id(named[name]) for name in expected}
    assert {each.name: each.choice.rule for each in planned.routing.routes if each.choice} == expected


ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"match": st.sampled_from(["a", "b", "bias$", r"^a\.", "norm", "weight", r"\.0\."])},
        optional={
            "weight_decay": st.sampled_from([0.0, 0.5]),
            "lr_ratio": st.sampled_from([0.5, 2.0]),
            "eps": st.just(0.1),
        },
    ).filter(lambda entry: len(entry) > 1),
    min_size=1,
    max_size=3,
)


@settings(max_examples=300)
@given(module_trees(), ENTRIES)
def test_of_the_entries_that_match_a_parameter_the_first_one_counts(model: nn.Module, entries: list[Any]) -> None:
    trainable = {name: each for name, each in model.named_parameters() if each.requires_grad}
    unmatched = [entry for entry in entries if not any(re.search(entry["match"], name) for name in trainable)]
    if not trainable or unmatched:
        with pytest.raises(anyoptim.OptimError, match=re.escape(repr(unmatched[0]["match"])) if trainable else ""):
            anyoptim.plan("adamw_torch", model, groups=entries)
        return
    groups = anyoptim.plan("adamw_torch", model, lr=0.1, weight_decay=0.3, groups=entries).groups
    held = {id(parameter): group for group in groups for parameter in group["params"]}
    assert len(held) == sum(len(group["params"]) for group in groups) == len(trainable)
    decaying = Trainer.get_decay_parameter_names(None, model)
    for name, parameter in trainable.items():
        entry = next((each for each in entries if re.search(each["match"], name)), {})
        group: Any = held[id(parameter)]
        assert group["weight_decay"] == entry.get("weight_decay", 0.3 if name in decaying else 0.0)
        assert group.get("lr", 0.1) == 0.1 * entry.get("lr_ratio", 1.0)
        assert group.get("eps") == entry.get("eps")


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


# ---------------------------------------------------------------- pairs of LoRA


def test_what_takes_pairs_of_lora_trains_them() -> None:
    model = lora()
    optimizer = anyoptim.get_optimizer("pytorch_optimizer/lorarite", model, lr=1e-2)
    before = weights(model)
    plain_steps(model, optimizer, 5)
    moved = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert moved == {name for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (llama, {}),
        (lambda: lora(modules_to_save=["lm_head"]), {}),
        (lora, {"lora_plus_ratio": 16.0}),
        (lora, {"groups": [{"match": r"layers\.0\..*lora_B", "weight_decay": 0.1}]}),
    ],
)
def test_what_takes_pairs_of_lora_refuses_anything_else(model: Any, given: dict[str, Any]) -> None:
    with pytest.raises(anyoptim.UnsupportedError, match="trains pairs of a LoRA A and its B, in one group each"):
        anyoptim.plan("pytorch_optimizer/lorarite", model(), **given)


def test_a_whole_pair_may_have_settings_of_its_own() -> None:
    assert len(anyoptim.plan("pytorch_optimizer/lorarite", lora(), optim_args=r"layers\.0\.@lr_ratio=0.1").groups) == 3
