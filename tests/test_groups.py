"""Each parameter is in one group: any tree of modules, any patterns, any entries."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import matches, routed
from torch import nn
from transformers import Trainer
from transformers.pytorch_utils import Conv1D

import anyoptim
from anyoptim.text import collapse


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


def test_layers_are_written_as_ranges() -> None:
    names = [f"layers.{layer}.{part}.weight" for layer in range(12) for part in ("q", "k")] + ["head.weight"]
    assert [(text, len(members)) for text, members in collapse(names)] == [
        ("layers.{0..11}.q.weight", 12),
        ("layers.{0..11}.k.weight", 12),
        ("head.weight", 1),
    ]
    assert [text for text, _ in collapse(["a.0.w", "a.2.w"])] == ["a.{0,2}.w"]


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
