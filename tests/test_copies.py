"""Copies, pickles, load hooks and added groups of every kind of optimizer that is ours."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import anyoptim
from anyoptim.engines.grokadamw import GrokAdamW
from anyoptim.engines.schedule_free import ScheduleFree

KINDS = [
    "grokadamw",
    "adalomo",
    "apollo_mini",
    "galore_adamw_8bit",
    "muon",
    "muon+prodigy",
    "lookahead(lion)",
    "cautious(muon+lion)",
    "orthograd(adamw_torch)",
    "schedule_free(sgd)",
    "schedule_free_radamw",
    "sam(adamw_torch)",
    "lbfgs",
    "adahessian",
]


def built(name: str, *, fused: bool = False) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    targets = {"optim_target_modules": "all-linear"} if anyoptim.optimizer_info(name).traits.names_targets else {}
    overrides = {"fused_backward": True} if fused else {}
    return model, anyoptim.get_optimizer(name, model, targets, lr=1e-3, **overrides)


def step(model: nn.Module, optimizer: Any, number: int) -> None:
    torch.manual_seed(number)
    inputs, second_order = torch.randn(4, 8), "Hessian" in type(optimizer).__name__

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(inputs).pow(2).mean()
        loss.backward(create_graph=second_order)
        return loss

    if hasattr(optimizer, "train"):
        optimizer.train()
    closure()
    optimizer.step(closure) if hasattr(optimizer, "closure") else optimizer.step()
    optimizer.zero_grad()


def same(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


WAYS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("name", "fused"), [*((name, False) for name in KINDS), ("adamw_torch", True), ("muon+prodigy", True)]
)
def test_a_copy_trains_as_the_original(name: str, fused: bool, way: Callable[[Any], Any]) -> None:
    model, optimizer = built(name, fused=fused)
    step(model, optimizer, 0)
    its_model, its_optimizer = way((model, optimizer))
    assert type(its_optimizer) is type(optimizer)
    for number in (1, 2):
        step(model, optimizer, number)
        step(its_model, its_optimizer, number)
        assert same(model, its_model)
    assert not {each.data_ptr() for each in model.parameters()} & {each.data_ptr() for each in its_model.parameters()}


def test_a_copy_of_a_copy_and_a_copy_before_the_first_step() -> None:
    model, optimizer = built("lookahead(adamw_torch)")
    twin, its = copy.deepcopy(copy.deepcopy((model, optimizer)))
    step(model, optimizer, 0)
    step(twin, its, 0)
    assert same(model, twin)


def test_other_objects_of_a_class_are_copied_as_before() -> None:
    built("adamw_torch")
    theirs = torch.optim.AdamW([nn.Parameter(torch.ones(2))])
    theirs.of_their_own = 1  # type: ignore[attr-defined]  # which torch leaves behind
    assert not hasattr(copy.deepcopy(theirs), "of_their_own")


# ---------------------------------------------------------------- loading


def zeroed(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """What torch's recipes do: return another dict."""

    def zero(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: zero(each) for key, each in value.items()}
        return torch.zeros_like(value) if isinstance(value, torch.Tensor) and value.numel() > 1 else value

    return {**state_dict, "state": {key: zero(each) for key, each in state_dict["state"].items()}}


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("lbfgs", "adahessian")])
def test_hooks_decide_what_is_loaded(name: str) -> None:
    model, optimizer = built(name)
    step(model, optimizer, 0)
    _, loaded = built(name)
    calls: list[str] = []
    loaded.register_load_state_dict_pre_hook(zeroed)
    loaded.register_load_state_dict_post_hook(lambda _: calls.append("after"))
    loaded.load_state_dict(optimizer.state_dict())
    assert calls == ["after"]
    large = [
        value
        for state in loaded.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.numel() > 1
    ]
    assert large
    assert not any(bool(each.any()) for each in large)


@pytest.mark.parametrize("name", ["grokadamw", "adamw_torch"])
def test_loading_copies_no_state(name: str) -> None:
    model, optimizer = built(name)
    step(model, optimizer, 0)
    state_dict = optimizer.state_dict()
    _, loaded = built(name)
    loaded.load_state_dict(state_dict)
    saved = {each["exp_avg"].data_ptr() for each in state_dict["state"].values()}
    assert {each["exp_avg"].data_ptr() for each in loaded.state.values()} == saved


def test_containers_of_a_state_are_not_shared() -> None:
    model, optimizer = built("grokadamw")
    step(model, optimizer, 0)
    state_dict = copy.deepcopy(optimizer.state_dict())
    state_dict["state"][0]["more"] = {"held": [1]}
    optimizer.load_state_dict(state_dict)
    optimizer.state[optimizer.param_groups[0]["params"][0]]["more"]["held"].append(2)
    assert state_dict["state"][0]["more"] == {"held": [1]}


def test_groups_of_other_sizes_are_refused_as_torch_refuses_them() -> None:
    optimizer = GrokAdamW([nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="param groups"):
        optimizer.load_state_dict(GrokAdamW([nn.Parameter(torch.ones(2)) for _ in range(2)]).state_dict())


def test_named_parameters_keep_their_names() -> None:
    optimizer = GrokAdamW([("w", nn.Parameter(torch.ones(2)))])
    optimizer.load_state_dict(GrokAdamW([("v", nn.Parameter(torch.ones(2)))]).state_dict())
    assert optimizer.param_groups[0]["param_names"] == ["w"]


# ---------------------------------------------------------------- groups


@pytest.mark.parametrize("name", KINDS[:-2])
@pytest.mark.parametrize("when", ["before the first step", "after a step"])
def test_a_group_that_is_added_trains(name: str, when: str) -> None:
    model, optimizer = built(name)
    if when == "after a step":
        step(model, optimizer, 0)
    added = nn.Linear(8, 8, bias=False)
    before = added.weight.detach().clone()
    model.append(added)
    optimizer.add_param_group({"params": list(added.parameters())})
    for number in range(8):  # RAdam leaves weights alone at first
        step(model, optimizer, number)
    assert not torch.equal(before, added.weight)
    again, its = built(name)
    again.append(nn.Linear(8, 8, bias=False))
    its.add_param_group({"params": list(again[2].parameters())})
    again.load_state_dict(model.state_dict())
    its.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer, 9)
    step(again, its, 9)
    assert same(model, again)


def test_a_group_that_is_added_in_training_is_in_training() -> None:
    """Nobody has to call train() once more, with a plan or without."""
    planned = {name: built(name) for name in ("schedule_free(sgd)", "schedule_free_sgd", "muon+schedule_free_sgd")}
    bare = nn.Sequential(nn.Linear(8, 8))
    for name, (model, optimizer) in {
        **planned,
        "without a plan": (bare, ScheduleFree(torch.optim.SGD(bare.parameters(), lr=1e-3))),
    }.items():
        step(model, optimizer, 0)
        added = nn.Linear(8, 8, bias=False)
        before = added.weight.detach().clone()
        model.append(added)
        optimizer.add_param_group({"params": list(added.parameters())})
        model(torch.ones(2, 8)).pow(2).mean().backward()
        optimizer.step()
        assert not torch.equal(before, added.weight), name


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("schedule_free(sgd)", "schedule_free_momentum", 0.5),
        ("lookahead(sgd)", "lookahead_k", 3),
        ("sam(sgd)", "sam_rho", 0.1),
        ("cautious(lion)", "cautious_eps", 0.1),
        ("muon", "fallback_betas", (0.5, 0.9)),
        ("muon", "fallback_eps", 1e-3),
    ],
)
def test_a_setting_that_is_changed_on_resume_is_said(name: str, key: str, value: object) -> None:
    model, optimizer = built(name)
    step(model, optimizer, 0)
    changed = anyoptim.get_optimizer(name, model, lr=1e-3, **{key: value})
    with pytest.warns(UserWarning, match=f"{key}=.* has no effect: the state that is resumed"):
        changed.load_state_dict(optimizer.state_dict())
