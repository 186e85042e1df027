"""The role of every parameter on real architectures, and names that wrappers change."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from architectures import MORE, NAMES, architecture
from special_roles import SPECIAL
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from toys import bert, llama, lora
from transformers import LlamaConfig, LlamaForSequenceClassification
from transformers.pytorch_utils import Conv1D

import anyoptim
from anyoptim.names.role import Role
from anyoptim.routing.structure import read_structure


def roles(model: nn.Module) -> dict[str, Role]:
    return {each.name: each.role for each in read_structure(model).places}


def expected_role(name: str, model: nn.Module, special: dict[str, list[str]]) -> str:
    owner, _, own_name = name.rpartition(".")
    module = model.get_submodule(owner)
    if "norm" in type(module).__name__.lower():
        return "norm"
    for role, names in special.items():
        if re.sub(r"\.\d+\.", ".N.", name) in names:
            return role
    if own_name == "bias":
        return "bias"
    assert isinstance(module, (nn.Linear, Conv1D)), f"{name} is in no table"
    return "hidden matrix"


@pytest.mark.parametrize("name", NAMES + MORE)
def test_every_parameter_of_an_architecture(name: str) -> None:
    model = architecture(name)
    found = roles(model)
    assert list(found) == [each for each, _ in model.named_parameters()]
    assert {each: str(role) for each, role in found.items()} == {
        each: expected_role(each, model, SPECIAL[name]) for each in found
    }


@pytest.mark.trainer
@pytest.mark.parametrize("name", ["MixtralForCausalLM", "Qwen3MoeForCausalLM"])
def test_routers_and_experts_on_every_transformers(name: str) -> None:
    """transformers 4.57 keeps experts in lists of modules, 5 in stacks."""
    found = roles(architecture(name))
    assert {each for each, role in found.items() if role is Role.ROUTER} == {
        f"model.layers.{layer}.{part}.gate.weight"
        for layer in (0, 1)
        for part in ("mlp", "block_sparse_moe")
        if f"model.layers.{layer}.{part}.gate.weight" in found
    }
    experts = {role for each, role in found.items() if ".experts." in each}
    assert experts in ({Role.EXPERT_STACK}, {Role.HIDDEN_MATRIX})


class Experts(nn.Module):
    def __init__(self, count: int, rows: int, columns: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(count, rows, columns))


def layer(stack: nn.Module, **others: nn.Module) -> nn.Module:
    return nn.ModuleDict({"stack": stack, **others})


@pytest.mark.parametrize(
    ("model", "role"),
    [
        (layer(Experts(3, 4, 5)), Role.EXPERT_STACK),  # called so
        (layer(type("Bank", (Experts,), {})(3, 4, 5), pick=nn.Linear(4, 3)), Role.EXPERT_STACK),  # routed
        (layer(type("Bank", (Experts,), {})(3, 4, 5), pick=nn.Linear(7, 3)), Role.OTHER),  # of another width
        (layer(type("Bank", (Experts,), {})(3, 4, 5), pick=nn.Linear(4, 2)), Role.OTHER),  # of another number
        (layer(type("Bank", (Experts,), {})(3, 4, 5)), Role.OTHER),
        (layer(Experts(1, 1, 5)), Role.OTHER),  # a class token
    ],
    ids=str,
)
def test_a_stack_is_one_of_experts_by_its_name_or_its_router(model: nn.Module, role: Role) -> None:
    assert roles(model)["stack.weights"] is role


def test_modules_of_torch() -> None:
    assert roles(nn.MultiheadAttention(8, 2, add_bias_kv=True)) == {
        "in_proj_weight": Role.HIDDEN_MATRIX,
        "in_proj_bias": Role.BIAS,
        "out_proj.weight": Role.HIDDEN_MATRIX,
        "out_proj.bias": Role.BIAS,
        "bias_k": Role.OTHER,
        "bias_v": Role.OTHER,
    }
    assert set(roles(nn.LSTM(3, 4)).values()) == {Role.HIDDEN_MATRIX, Role.BIAS}
    assert roles(nn.Conv2d(3, 4, 3)) == {"weight": Role.CONVOLUTION, "bias": Role.BIAS}
    assert roles(nn.BatchNorm2d(3)) == {"weight": Role.NORM, "bias": Role.NORM}
    assert roles(nn.PReLU()) == {"weight": Role.OTHER}
    assert roles(nn.Bilinear(2, 3, 4))["weight"] is Role.OTHER
    assert roles(nn.EmbeddingBag(4, 3)) == {"weight": Role.EMBEDDING}
    normed = roles(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)))
    assert normed["parametrizations.weight.original1"] is Role.OTHER  # the weight itself is computed


def test_a_head_is_found_outside_the_base_model() -> None:
    from peft import LoraConfig, get_peft_model

    model = LlamaForSequenceClassification(LlamaConfig(**llama().config.to_diff_dict(), num_labels=3))
    found = roles(get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="SEQ_CLS")))
    assert found["base_model.model.score.modules_to_save.default.weight"] is Role.OUTPUT_HEAD


# ---------------------------------------------------------------- names


def test_lora_matrices_and_the_names_of_the_modules_that_they_adapt() -> None:
    model = lora(target_modules=["q_proj", "embed_tokens"])
    places = {each.name: each for each in read_structure(model).places}
    a = places["base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"]
    b = places["base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"]
    assert (a.role, b.role) == (Role.LORA_A, Role.LORA_B)
    assert a.bare_module == b.bare_module == "model.layers.0.self_attn.q_proj"
    embedding = places["base_model.model.model.embed_tokens.lora_embedding_A.default"]
    assert (embedding.role, embedding.bare_module) == (Role.LORA_A, "model.embed_tokens")
    base = places["base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"]
    assert (base.role, base.bare_name) == (Role.HIDDEN_MATRIX, "model.layers.0.self_attn.q_proj.weight")
    assert places["base_model.model.model.norm.weight"].bare_name == "model.norm.weight"


def data_parallel(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


class Fsdp1(nn.Module):
    """The names of torch's FullyShardedDataParallel, which needs an accelerator."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._fsdp_wrapped_module = module


def fully_sharded(model: nn.Module) -> nn.Module:
    model.model.layers[0] = Fsdp1(model.model.layers[0])
    return Fsdp1(model)


def checkpointed(model: nn.Module) -> nn.Module:
    model.model.layers[0].self_attn = checkpoint_wrapper(model.model.layers[0].self_attn)
    return torch.compile(model)


@pytest.fixture
def one_process() -> Any:
    torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPERS = [torch.compile, data_parallel, fully_sharded, checkpointed]


@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda each: each.__name__)
def test_wrappers_do_not_change_names_roles_or_targets(wrap: Any, one_process: None) -> None:
    plain = {each.name: each.role for each in read_structure(llama()).places}
    pattern = r"model\.layers\.\d+\.self_attn\.(q|k)_proj"
    chosen = {each.name for each in anyoptim.plan("apollo_mini", llama(), optim_target_modules=pattern).routing.targets}
    wrapped = wrap(llama())
    places = read_structure(wrapped).places
    assert {each.bare_name: each.role for each in places} == plain
    assert [each.name for each in places] == [each for each, _ in wrapped.named_parameters()]
    entry = {"match": r"^lm_head", "lr": 1}
    planned = anyoptim.plan("apollo_mini", wrapped, optim_target_modules=pattern, groups=[entry])
    assert {each.place.bare_name for each in planned.routing.targets} == chosen
    assert [each.place.bare_name for each in planned.routing.routes if each.adjustment] == ["lm_head.weight"]


@pytest.mark.parametrize("name", ["apollo_adamw", "muon"])
def test_a_flat_piece_of_a_matrix_is_refused(name: str) -> None:
    """FSDP1 and ZeRO hand out such pieces: no vectors that could train as biases do."""
    model = llama()
    query = model.model.layers[0].self_attn.q_proj
    query.weight = nn.Parameter(query.weight.detach().flatten()[:100])
    assert roles(model)["model.layers.0.self_attn.q_proj.weight"] is Role.HIDDEN_MATRIX
    with pytest.raises(anyoptim.UnsupportedError, match=r"q_proj.weight as the matrix it is, not as a flat piece"):
        anyoptim.plan(name, model, optim_target_modules="hidden-matrices")


def test_the_shape_of_a_parameter_that_zero_3_keeps_in_pieces() -> None:
    model = architecture("Qwen3MoeForCausalLM")
    with torch.device("meta"):
        copy = type(model)(model.config)
    for parameter in copy.parameters():
        parameter.ds_shape, parameter.data = parameter.shape, parameter.data.new_empty(0)
    assert roles(copy) == roles(model)


def test_a_module_that_is_really_called_module_keeps_its_name() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.other = nn.Linear(2, 2), nn.Linear(2, 2)

    assert read_structure(Two()).places[0].bare_name == "module.weight"


def test_tied_and_frozen_parameters_have_one_place() -> None:
    model = bert()
    model.bert.embeddings.requires_grad_(False)
    structure = read_structure(model)
    names = [each.name for each in structure.places]
    assert len(set(names)) == len(names) == len(list(model.parameters()))
    assert ("cls.predictions.decoder", "bert.embeddings.word_embeddings.weight") in {
        (module, place.name) for module, place in structure.shared
    }
