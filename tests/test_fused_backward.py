"""Fused backward: whatever updates parameters one by one does so in the backward pass, and equals itself."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from engines import EVERYTHING, FUSED, SHAPES, Net, build
from torch import nn
from toys import NAMES, arguments, inner, llama, lora, needs_of, plain_steps, same_weights, train, weights
from transformers import Trainer

import anyoptim
from anyoptim.building.records import built
from anyoptim.engines.fused_backward import FusedBackward
from anyoptim.engines.lomo import Lomo
from anyoptim.names.role import Role

IMPLEMENTATIONS = [(name, each) for name in NAMES for each in anyoptim.optimizer_info(name).implementations]
SEPARABLE = [
    (name, each.name)
    for name, each in IMPLEMENTATIONS
    if any(one.name == "fused_backward" for one in each.hyperparameters)
]
COUPLED = [(name, each.name) for name, each in IMPLEMENTATIONS if "fused_backward" in each.unsupported]


def fields_of(name: str, implementation: str, fused: bool) -> dict[str, Any]:
    fields = needs_of(name)
    keys = [fields["optim_args"], f"implementation={implementation}", f"fused_backward={fused}"]
    return {**fields, "optim_args": ",".join(filter(None, keys)), "max_grad_norm": 0.0}


def built_both_ways(name: str, implementation: str) -> list[tuple[nn.Module, torch.optim.Optimizer]]:
    pairs = []
    for fused in (True, False):
        model = llama()
        fields = {**fields_of(name, implementation, fused), "weight_decay": 0.1}
        pairs.append((model, anyoptim.get_optimizer(name, model, fields)))
    return pairs


@pytest.mark.parametrize(("name", "implementation"), IMPLEMENTATIONS)
def test_every_implementation_says_whether_it_can(name: str, implementation: Any) -> None:
    accepts = any(each.name == "fused_backward" for each in implementation.hyperparameters)
    assert [accepts, "fused_backward" in implementation.unsupported, implementation.updates_in_backward].count(
        True
    ) == 1


@pytest.mark.parametrize(("name", "implementation"), SEPARABLE)
def test_it_equals_the_optimizer_without_it(name: str, implementation: str) -> None:
    (fused_model, fused), (model, optimizer) = built_both_ways(name, implementation)
    assert isinstance(fused, FusedBackward) and not isinstance(optimizer, FusedBackward)
    plain_steps(fused_model, fused)
    plain_steps(model, optimizer)
    assert same_weights(weights(fused_model), weights(model))
    assert not same_weights(weights(model), weights(llama()))
    assert_same(fused.state_dict(), optimizer.state_dict())


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize(("name", "implementation"), SEPARABLE)
def test_it_equals_it_in_a_trainer(name: str, implementation: str, tmp_path: Path) -> None:
    """With a schedule and gradient accumulation; what is logged is the same, but for the norm that nobody knows."""
    runs = []
    for fused in (True, False):
        fields = {**fields_of(name, implementation, fused), "lr_scheduler_type": "cosine", "warmup_steps": 2}
        args = arguments(tmp_path, optim=name, max_steps=6, gradient_accumulation_steps=2, weight_decay=0.1, **fields)
        trainer = train(llama(), args)
        assert isinstance(inner(trainer.optimizer), FusedBackward) == fused
        runs.append((weights(trainer.model), trainer.state.log_history))
    (fused_weights, fused_logs), (plain_weights, plain_logs) = runs
    assert same_weights(fused_weights, plain_weights)
    for fused_log, log in zip(fused_logs[:-1], plain_logs[:-1], strict=True):
        assert (fused_log["loss"], fused_log["learning_rate"]) == (log["loss"], log["learning_rate"])
        assert "grad_norm" not in fused_log


@pytest.mark.parametrize(("name", "implementation"), COUPLED)
def test_an_optimizer_that_couples_parameters_is_refused(name: str, implementation: str) -> None:
    with pytest.raises(anyoptim.UnsupportedError, match=f"{name} does not support fused_backward: "):
        built_both_ways(name, implementation)


@pytest.mark.parametrize(
    "name", [name for name, which in COUPLED if which == anyoptim.optimizer_info(name).default.name]
)
def test_the_refusal_is_earned(name: str) -> None:
    """What is refused would differ from the optimizer as it is."""
    results = []
    for wrap in (FusedBackward, lambda optimizer: optimizer):
        model = llama()
        fields = {key: value for key, value in needs_of(name).items() if key != "optim_args"}
        optimizer = wrap(anyoptim.get_optimizer(name, model, fields))
        plain_steps(model, optimizer, count=5)
        results.append(weights(model))
    assert not same_weights(*results)


@pytest.mark.parametrize(("name", "implementation"), SEPARABLE)
def test_gradients_never_exist_together(name: str, implementation: str) -> None:
    """Autograd adds the gradients up one parameter after the other, and each is gone when the next one arrives."""
    chosen = next(each for each in anyoptim.optimizer_info(name).implementations if each.name == implementation)
    model = Net(EVERYTHING if Role.EXPERT_STACK in chosen.target_roles else SHAPES)
    optimizer = build(name, model, implementation, fused_backward=True)
    training(optimizer)
    alive: list[int] = []

    def count(parameter: torch.Tensor) -> None:
        alive.append(sum(each.grad is not None for each in model.parameters()))

    for parameter in model.parameters():
        parameter.register_hook(count)  # before the gradient is added to .grad
    model(1).backward()
    assert len(alive) == len(list(model.parameters()))
    assert max(alive) == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(optimizer._step.updated) == len(alive)


@pytest.mark.parametrize(("name", "implementation"), SEPARABLE)
def test_a_checkpoint_fits_both_ways(name: str, implementation: str) -> None:
    (fused_model, fused), (model, optimizer) = built_both_ways(name, implementation)
    plain_steps(fused_model, fused, count=3)
    state = copy.deepcopy(fused.state_dict())
    model.load_state_dict(weights(fused_model))
    optimizer.load_state_dict(state)
    plain_steps(model, optimizer, count=3, seed=8)
    plain_steps(fused_model, fused, count=3, seed=8)
    assert same_weights(weights(fused_model), weights(model))


@pytest.mark.parametrize(("name", "implementation"), SEPARABLE)
def test_it_is_one_optimizer(name: str, implementation: str) -> None:
    (_, fused), _ = built_both_ways(name, implementation)
    within = built(fused)
    assert within is not None and within is not fused
    assert fused.param_groups is within.param_groups
    assert fused.state is within.state
    assert fused.defaults is within.defaults
    added = nn.Parameter(torch.randn(3))
    fused.add_param_group({"params": [added]})
    training(fused)
    added.sum().backward()
    assert added.grad is None and added in fused._step.updated
    within.load_state_dict(within.state_dict())
    assert fused.param_groups is within.param_groups


def test_lomo_is_sgd() -> None:
    expected_model, model = llama(), llama()
    plain_steps(expected_model, torch.optim.SGD(expected_model.parameters(), lr=0.1))
    plain_steps(model, FusedBackward(Lomo(model.parameters(), lr=0.1)))
    assert same_weights(weights(model), weights(expected_model))


@pytest.mark.parametrize("name", FUSED)
def test_a_dropped_optimizer_trains_no_more(name: str) -> None:
    model = Net(EVERYTHING)
    optimizer = build(name, model, lr=0.1)
    before = weights(model)
    del optimizer
    gc.collect()
    model(1).backward()
    assert same_weights(weights(model), before)


@pytest.mark.parametrize("name", FUSED)
def test_remove_turns_it_into_an_ordinary_optimizer(name: str) -> None:
    fused_model, model = Net(EVERYTHING), Net(EVERYTHING)
    fused, optimizer = build(name, fused_model, lr=0.1), build(name, model, lr=0.1)
    optimizer.remove()
    fused_model(1).backward()
    model(1).backward()
    assert same_weights(weights(model), weights(Net(EVERYTHING)))
    optimizer.step()
    fused.step()
    assert same_weights(weights(model), weights(fused_model))
    model(2).backward()
    assert same_weights(weights(model), weights(fused_model))


@pytest.mark.parametrize("name", FUSED)
def test_parameters_may_be_swapped_after_construction(name: str) -> None:
    """As accelerate does under FSDP2; the old ones are not kept alive."""
    model, swapped = Net(EVERYTHING), Net(EVERYTHING)
    expected, optimizer = build(name, model, lr=0.1), build(name, swapped, lr=0.1)
    new = {id(each): nn.Parameter(each.detach().clone()) for each in swapped.parameters()}
    for group in optimizer.param_groups:
        group["params"] = [new[id(each)] for each in group["params"]]
    for key, parameter in list(swapped.named_parameters()):
        setattr(swapped, key, new[id(parameter)])
    del parameter
    gc.collect()
    assert len(optimizer._hooks) == 0
    optimizer.attach()
    for step in (1, 2):
        model(step).backward()
        swapped(step).backward()
        assert all(each.grad is None for each in swapped.parameters())
    assert same_weights(weights(swapped), weights(model))
    assert expected.param_groups


@pytest.mark.parametrize(("name", "implementation"), SEPARABLE)
@pytest.mark.parametrize(
    ("fields", "message"), [({"fp16": True}, "use bf16=True"), ({"deepspeed": {"zero": 2}}, "DeepSpeed")]
)
def test_clashes(name: str, implementation: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(anyoptim.UnsupportedError, match=message):
        anyoptim.plan(name, llama(), {**fields_of(name, implementation, True), **fields})
    spec = anyoptim.optimizer_info(name)
    if "fp16" in fields or spec.traits.flat_pieces:
        anyoptim.plan(name, llama(), {**fields_of(name, implementation, False), **fields})


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
def test_hooks_of_steps_run_once_a_step(tmp_path: Path) -> None:
    model = llama()
    args = arguments(tmp_path, optim="adamw_torch", max_steps=3, **fields_of("adamw_torch", "upstream", True))
    trainer = Trainer(model, args, train_dataset=None)
    optimizer: Any = trainer.create_optimizer()
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    plain_steps(model, optimizer, count=2)
    assert calls == ["pre", "post"] * 2


def test_hooks_of_the_hybrid_inside_run_once_a_step() -> None:
    """Its own step is never called: its parts update in the backward pass."""
    model = llama()
    optimizer = anyoptim.get_optimizer("muon", model, lr=1e-3, fused_backward=True)
    assert isinstance(optimizer, FusedBackward)
    calls: list[str] = []
    optimizer.optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    plain_steps(model, optimizer, count=2)
    assert calls == ["pre", "post"] * 2


def training(optimizer: Any) -> None:
    if hasattr(optimizer, "train"):
        optimizer.train()


def assert_same(left: Any, right: Any) -> None:
    """Compare nested state dicts, tensors bit for bit."""
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert_same(value, right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for pair in zip(left, right, strict=True):
            assert_same(*pair)
    else:
        assert left == right


@pytest.mark.parametrize("name", ["adamw_torch", "lomo"])
def test_adapters_that_read_gradients_are_refused(name: str) -> None:
    """AdaLoRA's update_and_allocate() stands between the backward pass and the next one."""
    from peft import AdaLoraConfig, get_peft_model

    model = get_peft_model(llama(), AdaLoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", total_step=20))
    with pytest.raises(anyoptim.UnsupportedError, match=r"AdaLoRA's update_and_allocate\(\) reads the gradients"):
        anyoptim.get_optimizer(name, model, fused_backward=True)
    optimizer = anyoptim.get_optimizer(name, model, fused_backward=False)
    batch = torch.arange(16).unsqueeze(0)
    model(input_ids=batch, labels=batch).loss.backward()
    model.base_model.update_and_allocate(0)
    optimizer.step()
    anyoptim.get_optimizer(name, lora(), fused_backward=True)
