"""Which matrices a weight consists of: found in real models, held against what these compute with it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from architectures import architecture, small
from fused_modules import EXPERTS, MODELS, Used, alone, in_model, is_installed, models
from torch import nn

import anyoptim
from anyoptim.routing.fused import FUSED
from anyoptim.routing.pieces import Pieces, _use, pieces_of
from anyoptim.routing.places import Place
from anyoptim.routing.structure import read_structure

ROWS = [
    (folder, fused.attribute)
    for fused in FUSED
    for folder in sorted(fused.models)
    if fused.names != ("k", "v") and folder != "torch"
]


def settings(**values: object) -> Any:
    return SimpleNamespace(get={"split_fused": True, "heads": False, **values}.get)


def found(model: nn.Module, attribute: str = "", **given: object) -> Iterator[tuple[Place, nn.Module, Pieces]]:
    """Yield one weight of each kind of module with its owner and pieces."""
    seen = set()
    for place in read_structure(model).places:
        pieces = pieces_of(place, settings(**given))
        owner, name = _use(place)
        if pieces and owner is not None and attribute in ("", name) and (type(owner), name) not in seen:
            seen.add((type(owner), name))
            yield place, owner, pieces


def names_of(pieces: Pieces) -> list[str]:
    return [each.split()[0] for each in pieces.label.split(" | ")]


def hold(used: Used, pieces: Pieces) -> None:
    """With v (or gate) zero nothing comes out; with q zero k makes no difference, and the other way round."""
    values, names = dict(pieces.values), names_of(pieces)
    out = lambda **changed: used.given(values, names, **changed)  # noqa: E731
    gates = {"v", "gate"} & set(names)
    assert not out(**dict.fromkeys(gates, 0)).any()
    assert out().any()
    if "q" in names:
        assert torch.equal(out(q=0, k=5), out(q=0, k=6))
        assert torch.equal(out(k=0, q=5), out(k=0, q=6))
        assert not torch.equal(out(k=5), out(k=6))
        assert not torch.equal(out(q=5), out(q=6))


@pytest.mark.parametrize(("folder", "attribute"), ROWS, ids=[":".join(row) for row in ROWS])
def test_each_row_of_the_table_is_what_the_module_computes(folder: str, attribute: str) -> None:
    if not is_installed(folder):
        pytest.skip(f"this transformers has no {folder}")
    if folder in MODELS:
        runs = [
            (in_model(model, owner, place.parameter, child), pieces)
            for model, child in models(folder)
            for place, owner, pieces in found(model, attribute)
        ]
    else:
        runs = [
            (using(place.parameter), pieces)
            for holder, using in alone(folder, attribute)
            for place, _, pieces in found(holder, attribute)
        ]
    assert len(runs) >= len(MODELS.get(folder, "1"))
    for used, pieces in runs:
        hold(used, pieces)


@pytest.mark.parametrize(("name", "changed"), EXPERTS, ids=[name for name, _ in EXPERTS])
def test_experts_say_how_they_are_laid_out(name: str, changed: dict[str, Any]) -> None:
    if not hasattr(transformers, name):
        pytest.skip(f"this transformers has no {name}")
    model = small(name, **changed).eval()
    runs = list(found(model, "gate_up_proj"))
    if not runs:
        pytest.skip("this transformers keeps their gates and ups apart, or does not say")
    for place, owner, pieces in runs:
        hold(in_model(model, owner, place.parameter), pieces)


def test_keys_and_values_of_cross_attention() -> None:
    model = small("GPT2LMHeadModel", add_cross_attention=True).eval()
    name, place = next(
        (each.name, each) for each in read_structure(model).places if "crossattention.c_attn" in each.name
    )
    pieces = pieces_of(place, settings())
    assert pieces is not None
    assert pieces.label == "k 64 | v 64", name
    inputs = {"input_ids": torch.arange(8).view(1, 8), "encoder_hidden_states": torch.randn(1, 8, 64)}
    hold(in_model(model, place.parent, place.parameter, **inputs), pieces)


def test_torchs_own_attention() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)).eval()
    (place, owner, pieces), *_ = found(model, "in_proj_weight")
    assert pieces.label == "q 64 | k 64 | v 64"
    hidden = torch.randn(2, 8, 64)
    hold(Used(owner, place.parameter, lambda: owner(hidden, hidden, hidden)[0]), pieces)
    assert pieces_of(place, settings(heads=True)).label == "12 heads of 16"


HEADS = {
    "LlamaForCausalLM": [({}, "o_proj")],
    "T5EncoderModel": [({}, "o")],
    "Qwen3ForCausalLM": [({"head_dim": 32}, "o_proj")],
    "GPT2LMHeadModel": [({}, "c_proj")],
    "GPTNeoXForCausalLM": [({}, "dense")],
    "Phi3ForCausalLM": [({}, "o_proj")],
    "CodeGenForCausalLM": [({"rotary_dim": 8, "n_head": 8}, "out_proj")],
    "FalconForCausalLM": [(changed, "dense") for _, changed in MODELS["falcon"]],
    "BloomForCausalLM": [({}, "dense")],
}


@pytest.mark.parametrize(
    ("name", "changed", "child"), [(name, *each) for name, cases in HEADS.items() for each in cases], ids=str
)
def test_a_head_is_what_one_head_computes_with(name: str, changed: dict[str, Any], child: str) -> None:
    """Another head of q changes one head of what attention returns, one of k or v all those that share it."""
    model = small(name, **changed).eval()
    for place, owner, pieces in found(model, heads=True):
        if "heads of" not in pieces.label:
            continue
        used = in_model(model, owner, place.parameter, child)
        names = [str(index) for index in range(len(pieces.values["split"]["sizes"]))]
        before = used.given(dict(pieces.values), names)
        size = pieces.values["split"]["sizes"][0]
        total = 0.0
        for each in names:
            after = used.given(dict(pieces.values), names, **{each: 5})
            heads = (before != after).flatten(0, -2).any(0).unflatten(0, (-1, size)).float().mean(-1)
            assert set(heads.tolist()) <= {0.0, 1.0}
            total += heads.sum().item()
        fused = place.module_name.rpartition(".")[2] not in ("q_proj", "k_proj", "v_proj", "q", "k", "v")
        assert total == len(heads) * (3 if fused else 1)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "OPTForCausalLM", "ViTForImageClassification"])
def test_without_fused_projections_groups_are_as_they_were(name: str) -> None:
    plan = anyoptim.plan("muon", architecture(name))
    assert not any({"split", "flatten"} & group.keys() for group in plan.groups)
    assert len(plan.groups) == 3


def test_what_nothing_tells_stays_whole_and_is_said() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.head_dim = 4, 16
            self.qkv = nn.Linear(64, 192)
            self.proj = nn.Linear(64, 64)

    for heads in (False, True):
        plan = anyoptim.plan("muon", nn.Sequential(Attention()), heads=heads)
        assert not any("split" in group for group in plan.groups)
        assert any("0.qkv.weight are taken whole" in each for each in plan.advice)
        assert any(each.startswith("heads has no effect") for each in plan.advice) == heads


@pytest.mark.parametrize(
    "wrong",
    [{"num_heads": 5}, {"head_dim": 8}, {"num_heads": None, "config": None}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_numbers_that_do_not_fit_split_nothing(wrong: dict[str, object]) -> None:
    model = small("BloomForCausalLM")
    owner = model.transformer.h[0].self_attention
    for key, value in wrong.items():
        setattr(owner, key, value)
    assert not [each for _, each, _ in found(model) if each is owner]


def test_a_plan_shows_pieces() -> None:
    plan = anyoptim.plan("muon", architecture("Phi3ForCausalLM"))
    shown = {each["pieces"] for each in plan.to_dict()["parameters"]}
    assert shown == {None, "q 64 | k 32 | v 32", "gate 128 | up 128"}
    assert "q 64 | k 32 | v 32" in str(plan)
    off = anyoptim.plan("muon", architecture("Phi3ForCausalLM"), split_fused=False)
    assert "pieces" not in str(off)
    assert not any("split" in group for group in off.groups)


def test_only_our_engine_takes_weights_apart() -> None:
    with pytest.raises(anyoptim.OptimArgsError, match="only the native implementation takes weights apart"):
        anyoptim.plan("torch/muon", architecture("GPT2LMHeadModel"), heads=True)
