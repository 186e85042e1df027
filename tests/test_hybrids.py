"""Several optimizers as one: Muon with AdamW for the rest, and any other pair."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import in_new_process
from runs import STOP, fields_of, resume, resumes_as
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from toys import arguments, data, inner, llama, plain_steps, same_weights, train, weights

import anyoptim
from anyoptim.building.records import built
from anyoptim.engines.composite import CompositeOptimizer
from anyoptim.engines.fused_backward import FusedBackward

PAIRS = [
    "muon+sgd",
    "muon+torch.optim:NAdam",
    "apollo_adamw+stable_adamw",
    "sgd+adamw_torch",
    "muon+schedule_free_adamw",
    "schedule_free_sgd+adamw_torch_fused",
    "grokadamw+adalomo",
    "adalomo+grokadamw",
]


def hidden(model: nn.Module) -> list[nn.Parameter]:
    return [each for name, each in model.named_parameters() if "layers" in name and each.dim() > 1]


def by_hand(model: nn.Module, lr: float, fallback_lr: float, **muon: Any) -> list[torch.optim.Optimizer]:
    """torch.optim.Muon and AdamW with transformers' decay groups."""
    chosen = {id(each) for each in hidden(model)}
    rest = [each for each in model.parameters() if id(each) not in chosen]
    groups = [
        {"params": [each for each in rest if each.dim() > 1], "weight_decay": 0.01},
        {"params": [each for each in rest if each.dim() == 1], "weight_decay": 0.0},
    ]
    return [torch.optim.AdamW(groups, lr=fallback_lr), torch.optim.Muon(hidden(model), lr=lr, **muon)]


class Both:
    """Two optimizers, and a schedule for each."""

    def __init__(self, optimizers: list[torch.optim.Optimizer], schedule: bool) -> None:
        self.optimizers = optimizers
        self.schedules = [CosineAnnealingLR(each, 20) for each in optimizers if schedule]

    def step(self) -> None:
        for each in (*self.optimizers, *self.schedules):
            each.step()

    def zero_grad(self) -> None:
        for each in self.optimizers:
            each.zero_grad()


@pytest.mark.usefixtures("multiplied_as_by_torch")
@pytest.mark.parametrize("schedule", [False, True])
@pytest.mark.parametrize("implementation", ["native", "upstream"])
@pytest.mark.parametrize("adjust_lr_fn", [None, "match_rms_adamw"])
def test_muon_is_torchs_muon_and_adamw_by_hand(implementation: str, adjust_lr_fn: Any, schedule: bool) -> None:
    ours, theirs = llama(), llama()
    optimizer = anyoptim.get_optimizer(
        "muon",
        ours,
        lr=0.02,
        weight_decay=0.1,
        fallback_lr=3e-4,
        fallback_weight_decay=0.01,
        optim_args={"implementation": implementation, "adjust_lr_fn": adjust_lr_fn},
    )
    plain_steps(ours, Both([optimizer], schedule))
    plain_steps(theirs, Both(by_hand(theirs, 0.02, 3e-4, weight_decay=0.1, adjust_lr_fn=adjust_lr_fn), schedule))
    assert same_weights(weights(ours), weights(theirs))
    assert not same_weights(weights(ours), weights(llama()))


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled", "multiplied_as_by_torch")
def test_muon_in_a_trainer_is_torchs_muon_and_adamw_by_hand(tmp_path: Path) -> None:
    """Through the Trainer on both sides, with schedule, warmup, accumulation and clipping."""
    fields = {"lr_scheduler_type": "cosine", "warmup_steps": 2, "gradient_accumulation_steps": 2, "max_steps": 10}
    args = arguments(
        tmp_path, optim="muon", learning_rate=0.02, optim_args="fallback_lr=3e-4,fallback_weight_decay=0.01", **fields
    )
    ours = train(llama(), args)
    model = llama()
    adamw, muon = by_hand(model, 0.02, 3e-4, weight_decay=0.0)
    composite = CompositeOptimizer({"adamw": adamw, "muon": muon})
    theirs = train(model, arguments(tmp_path, learning_rate=0.02, **fields), optimizers=(composite, None))
    assert same_weights(weights(ours.model), weights(theirs.model))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Sequential(nn.Embedding(4, 4), nn.LayerNorm(4)), "the model has no hidden matrix"),
        (lambda: nn.Conv2d(3, 4, 2), "the model has no hidden matrix"),
    ],
)
def test_nothing_for_muon_is_an_error(model: Any, message: str) -> None:
    with pytest.raises(anyoptim.TargetModulesError, match=message):
        anyoptim.plan("muon", model())


# ---------------------------------------------------------------- one optimizer


def pair(name: str, model: nn.Module, **given: Any) -> Any:
    rank = {"rank": 4} if name.startswith("apollo") else {}
    return anyoptim.get_optimizer(name, model, lr=1e-2, fallback_lr=1e-3, **rank, **given)


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_is_its_two_optimizers(name: str) -> None:
    """Each built alone on its parameters, with the schedules of its own."""
    ours, theirs = llama(), llama()
    optimizer = pair(name, ours)
    assert isinstance(optimizer, (CompositeOptimizer, FusedBackward))
    matrix, _, rest = name.partition("+")
    chosen = {id(each) for each in hidden(theirs)}
    alone = []
    for part, rate, is_target in ((rest, 1e-3, False), (matrix, 1e-2, True)):
        spec = anyoptim.optimizer_info(part)
        parameters = [each for each in theirs.parameters() if (id(each) in chosen) == is_target]
        keywords = {each.name: each.default for each in spec.hyperparameters if each.scope == "optimizer"}
        target = {"rank": 4} if spec.name.startswith("apollo") else {}
        decaying = [each for each in parameters if each.dim() > 1]
        others = [each for each in parameters if each.dim() == 1]
        groups = [{"params": decaying, **target}, {"params": others, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        alone.append(spec.default.load()(groups, **{**keywords, "lr": rate}))
    for each in alone:
        if hasattr(each, "train"):
            each.train()
    plain_steps(ours, optimizer, 8)
    plain_steps(theirs, Both(alone, schedule=False), 8)
    for each in alone:
        if hasattr(each, "eval"):
            each.eval()
    assert same_weights(weights(ours), weights(theirs))


@pytest.mark.parametrize("name", PAIRS)
def test_its_groups_and_state_are_those_of_the_inner_optimizers(name: str) -> None:
    model = llama()
    optimizer = built(pair(name, model))
    assert isinstance(optimizer, CompositeOptimizer)

    def shared() -> bool:
        inside = [group for each in optimizer.optimizers.values() for group in each.param_groups]
        return {id(group) for group in inside} == {id(group) for group in optimizer.param_groups} and all(
            each.state is optimizer.state for each in optimizer.optimizers.values()
        )

    assert shared()
    plain_steps(model, optimizer, 2)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert shared()
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(held) == len({id(each) for each in held}) == len(list(model.parameters()))
    assert all(optimizer.state[each] is not None for each in held)


@pytest.mark.parametrize("name", ["muon", *PAIRS])
def test_a_state_dict_goes_on_bit_equal(name: str) -> None:
    straight, first, second = llama(), llama(), llama(seed=1)
    optimizer = pair(name, straight)
    train_on(straight, optimizer, range(6))
    before = pair(name, first)
    train_on(first, before, range(3))
    file = io.BytesIO()
    torch.save([before.state_dict(), first.state_dict()], file)
    file.seek(0)
    state, model_state = torch.load(file, weights_only=True)
    after = pair(name, second)
    second.load_state_dict(model_state)
    after.load_state_dict(state)
    train_on(second, after, range(3, 6))
    assert same_weights(weights(second), weights(straight))


def train_on(model: nn.Module, optimizer: Any, steps: range) -> None:
    optimizer = optimizer if hasattr(optimizer, "train") else optimizer.optimizer
    optimizer.train()
    for step in steps:
        batch = torch.stack([data()[index]["input_ids"] for index in range(4 * step, 4 * step + 4)])
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("name", ["muon+schedule_free_adamw", "grokadamw+adalomo"])
def test_a_pair_resumes_in_a_new_process(name: str, tmp_path: Path) -> None:
    fields = fields_of(name, optim_args="fallback_lr=1e-3", save_strategy="steps", save_steps=STOP)
    trainer = train(llama(), arguments(tmp_path, **fields))
    assert in_new_process(resume, str(tmp_path), fields, str(tmp_path / f"checkpoint-{STOP}")) == 0
    assert resumes_as(tmp_path, weights(trainer.model))


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
def test_schedule_free_in_a_pair_saves_its_average(tmp_path: Path) -> None:
    args = arguments(tmp_path, optim="muon+schedule_free_adamw", lr_scheduler_type="constant", max_steps=6)
    trainer = train(llama(), args)
    optimizer = inner(trainer.optimizer)
    averaged = weights(trainer.model)
    optimizer.train()
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        held = {"training_weight" in saved["state"][index] for index in group["params"]}
        assert held <= {"train_mode" in group}, group["optimizer"]  # of the others, weights are weights
    changed = {name for name, each in trainer.model.named_parameters() if not torch.equal(each, averaged[name])}
    names = {id(each): name for name, each in trainer.model.named_parameters()}
    assert changed
    assert changed <= {
        names[id(each)] for group in optimizer.param_groups if "train_mode" in group for each in group["params"]
    }


def test_groups_may_be_added() -> None:
    model, late = llama(), nn.Linear(32, 32, bias=True)
    optimizer = anyoptim.get_optimizer("muon", model, lr=1e-2)
    schedule = CosineAnnealingLR(optimizer, 4)
    count = len(optimizer.param_groups)
    optimizer.add_param_group({"params": late.weight, "optimizer": "muon"})
    optimizer.add_param_group({"params": [late.bias]})  # to the one that takes anything
    assert [group["optimizer"] for group in optimizer.param_groups[count:]] == ["muon", "adamw_torch"]
    with pytest.raises(ValueError, match="more than one"):
        optimizer.add_param_group({"params": [late.bias], "optimizer": "muon"})
    with pytest.raises(KeyError, match="muno"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, 2))], "optimizer": "muno"})
    before = late.weight.detach().clone(), late.bias.detach().clone()
    (late(torch.ones(1, 32)).sum() + model(input_ids=data()[0]["input_ids"][None]).logits.sum()).backward()
    optimizer.step()
    schedule.step()
    assert not torch.equal(late.weight, before[0]) and not torch.equal(late.bias, before[1])
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(state)
    assert [group["optimizer"] for group in optimizer.param_groups[count:]] == ["muon", "adamw_torch"]
    assert optimizer.state_dict()["state"].keys() == state["state"].keys()
    optimizer.zero_grad()
    assert all(each.grad is None for each in late.parameters())


def test_a_state_dict_of_other_groups_is_refused_before_anything_is_loaded() -> None:
    model = llama()
    optimizer = anyoptim.get_optimizer("muon", model)
    other = anyoptim.get_optimizer("muon", llama(), groups=[{"match": "q_proj", "lr": 1e-4}])
    with pytest.raises(anyoptim.CheckpointError):
        optimizer.load_state_dict(other.state_dict())
    with pytest.raises(anyoptim.CheckpointError, match="resume with optim='muon'"):
        pair("muon+sgd", model).load_state_dict(optimizer.state_dict())


# ---------------------------------------------------------------- fused backward


@pytest.mark.parametrize("name", ["muon", "muon+sgd", "apollo_adamw+stable_adamw", "muon+schedule_free_adamw"])
def test_both_parts_update_in_the_backward_pass(name: str) -> None:
    fused, plain = llama(), llama()
    optimizer = pair(name, fused, fused_backward=True)
    assert isinstance(optimizer, FusedBackward)
    batch = data()[0]["input_ids"][None]
    optimizer.optimizer.train()
    fused(input_ids=batch, labels=batch).loss.backward()
    assert all(each.grad is None for each in fused.parameters())
    optimizer.step()
    other = pair(name, plain)
    other.train()
    plain(input_ids=batch, labels=batch).loss.backward()
    other.step()
    other.zero_grad()
    plain_steps(fused, optimizer, 6)
    plain_steps(plain, other, 6)
    assert same_weights(weights(fused), weights(plain))


@pytest.mark.parametrize("name", ["grokadamw+sgd", "sgd+grokadamw"])
def test_a_part_that_cannot_waits_for_the_step(name: str) -> None:
    fused, plain = llama(), llama()
    planned = anyoptim.plan(name, fused, lr=1e-2, fallback_lr=1e-3, fused_backward=True)
    assert any("the gradients of grokadamw wait for step()" in each for each in planned.advice)
    optimizer = planned.build()
    batch = data()[0]["input_ids"][None]
    fused(input_ids=batch, labels=batch).loss.backward()
    grok = {
        id(each) for group in optimizer.param_groups if group["optimizer"] == "grokadamw" for each in group["params"]
    }
    assert grok == {id(each) for each in fused.parameters() if each.grad is not None}
    optimizer.step()
    assert all(each.grad is None for each in fused.parameters())
    other = anyoptim.get_optimizer(name, plain, lr=1e-2, fallback_lr=1e-3)
    plain(input_ids=batch, labels=batch).loss.backward()
    other.step()
    other.zero_grad()
    plain_steps(fused, optimizer, 6)
    plain_steps(plain, other, 6)
    assert same_weights(weights(fused), weights(plain))


def test_both_parts_are_mended() -> None:
    """bitsandbytes keeps embeddings in 8 bits unless told otherwise."""
    model = torch.nn.Sequential(torch.nn.Embedding(256, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    optimizer = anyoptim.get_optimizer("muon+adamw_8bit", model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert optimizer.state[model[0].weight]["state1"].dtype is torch.float32
