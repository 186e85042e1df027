"""The plan: precedence, sources, memory, advice, and that building is the plan and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from architectures import architecture
from torch import nn
from toys import NAMES, llama, needs_of, plain_steps

import anyoptim
from anyoptim.memory.state import measured_state_bytes

FAR = {"max_grad_norm": 0.0, "lr_scheduler_type": "constant"}


def plan(name: str, model: nn.Module | None = None, args: Any = None, **overrides: Any) -> anyoptim.Plan:
    if anyoptim.optimizer_info(name).traits.needs_targets:
        overrides.setdefault("optim_target_modules", "all-linear")
    return anyoptim.plan(name, model if model is not None else llama(), args, **overrides)


@pytest.mark.parametrize(
    ("args", "overrides", "value", "source"),
    [
        (None, {}, 1e-3, "default"),
        ({"learning_rate": 2.0}, {}, 2.0, "TrainingArguments"),
        ({"learning_rate": 2.0, "optim_args": "lr=3"}, {}, 3.0, "optim_args"),
        ({"learning_rate": 2.0, "optim_args": "lr=3"}, {"lr": 4}, 4.0, "override"),
        ({"learning_rate": 2.0, "optim_args": "lr=3"}, {"optim_args": "lr=5"}, 5.0, "optim_args"),
        ({"learning_rate": "2e-1"}, {}, 0.2, "TrainingArguments"),
    ],
)
def test_precedence(args: Any, overrides: dict[str, Any], value: float, source: str) -> None:
    setting = plan("adamw_torch", args=args, **overrides).hyperparameters["lr"]
    assert (setting.value, setting.source) == (value, source)


@pytest.mark.parametrize("name", NAMES)
def test_predicted_state_is_measured_state(name: str) -> None:
    model = llama()
    fields = needs_of(name)
    planned = plan(name, model, fields)
    optimizer = planned.build()
    plain_steps(model, optimizer, count=1)
    assert planned.state_bytes == measured_state_bytes(optimizer)


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_allocates_nothing_and_builds_twice(name: str) -> None:
    model = llama()
    planned = plan(name, model, needs_of(name))
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())
    first, second = planned.build(), planned.build()
    first.param_groups[0]["lr"] = 123.0
    first.param_groups[0]["params"].clear()
    assert second.param_groups[0]["lr"] != 123.0
    assert second.param_groups[0]["params"]
    assert planned.build().param_groups[0]["params"]


def test_asking_for_memory_draws_no_random_numbers(restored_registry: None) -> None:
    @anyoptim.register("noisy")
    class Noisy(torch.optim.SGD):
        def __init__(self, params: Any, lr: float = 0.1) -> None:
            super().__init__(params, lr=lr)

        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    noise = torch.randn(parameter.shape)
                    self.state[parameter]["noise"] = noise
                    assert float(noise.sum()) != 0  # so that it needs a real step

    model = llama()
    before = torch.get_rng_state()
    planned = plan("noisy", model)
    assert planned.state_bytes == 4 * sum(parameter.numel() for parameter in model.parameters())
    assert planned.memory.method == "a real step per parameter shape"
    assert torch.equal(torch.get_rng_state(), before)


def test_memory_under_a_default_device() -> None:
    with torch.device("meta"):
        assert plan("stable_adamw", architecture("LlamaForCausalLM")).state_bytes


@pytest.mark.parametrize("place", ["the first", "a group", "none"])
def test_state_that_is_not_kept_by_parameter_is_counted_whole(place: str, restored_registry: None) -> None:
    @anyoptim.register("elsewhere")
    class Elsewhere(torch.optim.SGD):
        """Keeps one flat tensor for all parameters."""

        def __init__(self, params: Any, lr: float = 0.1) -> None:
            super().__init__(params, lr=lr)

        def step(self, closure: Any = None) -> None:
            everything = [each for group in self.param_groups for each in group["params"]]
            flat = torch.cat([each.grad.flatten() for each in everything])
            if place == "a group":
                self.param_groups[0]["flat"] = flat
            else:
                self.state[everything[0] if place == "the first" else "flat"]["flat"] = flat

    model = llama()
    planned = plan("elsewhere", model)
    assert planned.state_bytes == 4 * sum(parameter.numel() for parameter in model.parameters())
    assert planned.memory.method == "its first step on fake tensors"


def test_memory_that_cannot_be_tried_is_unknown(restored_registry: None) -> None:
    @anyoptim.register("flat")
    class Flat(torch.optim.SGD):
        """Makes one group of all, and a step that has no fake form."""

        def __init__(self, params: Any, lr: float = 0.1) -> None:
            super().__init__([each for group in params for each in group["params"]], lr=lr)

        def step(self, closure: Any = None) -> None:
            raise RuntimeError("not here")

    planned = plan("flat")
    assert planned.state_bytes is None
    assert "unknown" in str(planned)


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_is_readable_and_plain(name: str) -> None:
    planned = plan(name, args=needs_of(name))
    text = str(planned)
    assert name in text
    assert "model.layers.{0..1}.mlp.up_proj.weight" in text
    assert json.loads(json.dumps(planned.to_dict()))["state_bytes"] == planned.state_bytes


def test_memory_of_a_large_model_on_the_meta_device() -> None:
    model = architecture("LlamaForCausalLM")
    count = sum(parameter.numel() for parameter in model.parameters())
    tensors = len(list(model.parameters()))
    assert plan("adamw_torch", model).state_bytes == 8 * count + 4 * tensors
    assert plan("lomo", model).state_bytes == 0


@pytest.mark.parametrize(
    ("name", "args", "sentence"),
    [
        ("adalomo", {"max_grad_norm": 1.0}, "max_grad_norm=1.0 has no effect"),
        ("schedule_free_adamw", {"lr_scheduler_type": "linear"}, "lr_scheduler_type='linear' works against"),
        ("schedule_free_adamw", {"lr_scheduler_type": "constant_with_warmup"}, "warmup is applied twice"),
        ("adamw_torch", {"optim_target_modules": ["attn"]}, "optim_target_modules has no effect"),
        ("sgd", {"learning_rate": 5e-5}, "far below what sgd usually takes"),
        ("adamw_torch", {"learning_rate": 1.0}, "far above"),
        ("apollo_adamw", {"optim_args": "rank=64"}, "rank=64 is larger than"),
        ("apollo_adamw", {"optim_args": "rank=1,scale=10000"}, "rank=1 makes updates 18 times larger than"),
        ("apollo_mini", {"optim_args": "scale=0.01"}, "a scale near 32 fits matrices of 32 dimensions"),
        ("stable_adamw", {"max_grad_norm": 1.0}, "works against stable_adamw, which limits its updates itself"),
        ("adamw_torch", {"optim_args": "fused_backward=true", "max_grad_norm": 1.0}, "max_grad_norm=1.0 has no effect"),
        ("lomo", {"optim_args": "implementation=upstream", "weight_decay": 0.1}, "applies to every parameter"),
    ],
)
def test_advice_is_given_once_at_build(name: str, args: dict[str, Any], sentence: str) -> None:
    planned = plan(name, args={**FAR, **args})
    assert len([each for each in planned.advice if sentence in each]) == 1, planned.advice
    with pytest.warns(UserWarning, match=sentence) as caught:
        planned.build()
    assert len([each for each in caught if sentence in str(each.message)]) == 1


@pytest.mark.parametrize("name", NAMES)
def test_good_arguments_get_no_advice(name: str) -> None:
    assert plan(name, args=needs_of(name)).advice == ()


def test_weight_decay_of_an_optimizer_without(restored_registry: None) -> None:
    @anyoptim.register("no_decay")
    class NoDecay(torch.optim.Optimizer):
        def __init__(self, params: Any, lr: float = 0.1) -> None:
            super().__init__(params, {"lr": lr})

    planned = plan("no_decay", args={"weight_decay": 0.1})
    assert planned.advice == ("weight_decay has no effect: no_decay has none",)
    assert all("weight_decay" not in group for group in planned.groups)


def test_learning_rate_of_an_optimizer_without(restored_registry: None) -> None:
    """As AliG has none, and Magma's goes to an AdamW that it makes itself."""

    @anyoptim.register("no_rate")
    class NoRate(torch.optim.Optimizer):
        def __init__(self, params: Any, momentum: float = 0.9) -> None:
            super().__init__(params, {"lr": 0.1, "momentum": momentum})

    planned = plan("no_rate", args={"learning_rate": 1e-3})
    assert planned.advice == ("learning_rate has no effect: no_rate has none",)


@pytest.mark.parametrize(
    ("name", "args", "error", "message"),
    [
        ("lomo", {"fp16": True}, anyoptim.UnsupportedError, "use bf16=True"),
        ("lomo", {"auto_find_batch_size": True}, anyoptim.UnsupportedError, "set auto_find_batch_size=False"),
        ("lbfgs", {"auto_find_batch_size": True}, anyoptim.UnsupportedError, "set auto_find_batch_size=False"),
        (
            "adamw_torch",
            {"optim_args": "fused_backward=true", "auto_find_batch_size": True},
            anyoptim.UnsupportedError,
            "updates inside the backward pass, so a batch that does not fit",
        ),
        ("grokadamw", {"optim_args": "fused_backward=true"}, anyoptim.UnsupportedError, "place among those"),
        ("lomo", {"deepspeed": "ds.json"}, anyoptim.UnsupportedError, "flat pieces of parameters that DeepSpeed"),
        ("schedule_free_sgd", {"deepspeed": "ds.json"}, anyoptim.UnsupportedError, "cannot put its average into"),
        (
            "spam",
            {"fsdp": True, "save_strategy": "steps"},
            anyoptim.UnsupportedError,
            "cannot go on from a checkpoint of FSDP2: the size of its state changes .* save_strategy='no'",
        ),
        ("timm/kronw", {"fsdp": True}, anyoptim.UnsupportedError, "cannot step on parameters that FSDP2 shards"),
        (
            "lomo",
            {"optim_args": "implementation=upstream", "gradient_accumulation_steps": 4},
            anyoptim.UnsupportedError,
            "updates on every micro-batch",
        ),
        ("schedule_free_sgd", {"warmup_steps": 0.1}, anyoptim.OptimArgsError, "warmup ratio needs the number"),
        (
            "adamw_torch",
            {"learning_rate": -1.0},
            anyoptim.OptimArgsError,
            r"lr \(from TrainingArguments.learning_rate\)",
        ),
        ("adafactor", {"optim_args": "relative_step=true"}, anyoptim.OptimArgsError, "transformers refuses"),
        (
            "adafactor",
            {"optim_args": "lr=none"},
            anyoptim.UnsupportedError,
            "cannot step without a learning rate; set lr",
        ),
        ("adalomo", {"optim_args": "decay_rate=0.8"}, anyoptim.OptimArgsError, "decay_rate must be <= 0, not 0.8"),
        ("timm/adafactor", {"optim_args": "decay_rate=0.8"}, anyoptim.OptimArgsError, "decay_rate must be <= 0"),
        ("timm/adafactorbv", {"optim_args": "decay_rate=-0.8"}, anyoptim.OptimArgsError, "decay_rate must be >= 0"),
        ("muon", {"optim_args": "momentum=1.5"}, anyoptim.OptimArgsError, r"momentum must be in \[0, 1\), not 1.5"),
        ("timm/rmsprop", {"optim_args": "alpha=1.5"}, anyoptim.OptimArgsError, r"alpha must be in \[0, 1\)"),
        ("heavyball/adamw", {"optim_args": {"betas": (0.9, 1.5)}}, anyoptim.OptimArgsError, "betas must be in"),
        ("adamw_torch", {"optim_args": "lr=1e400"}, anyoptim.OptimArgsError, "lr must be a finite number, not inf"),
        ("heavyball/adamw", {"optim_args": {"warmup_steps": 10**400}}, anyoptim.OptimArgsError, "so many digits"),
        ("sgd", {"optim_args": "nesterov=true"}, anyoptim.OptimArgsError, "torch refuses its arguments: Nesterov"),
        ("adamw_torch_fused", {"optim_args": "foreach=1"}, anyoptim.OptimArgsError, "cannot be `True` together"),
        ("sgd", {"optim_args": 5}, anyoptim.OptimArgsError, "must be text"),
    ],
)
def test_refusals(name: str, args: dict[str, Any], error: type[Exception], message: str) -> None:
    model = llama()
    with pytest.raises(error, match=message):
        plan(name, model, args).build()
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())


@pytest.mark.parametrize("name", ["adamw_torch", "apollo_adamw"])
def test_no_model_no_optimizer(name: str) -> None:
    with pytest.raises(anyoptim.OptimError, match="model"):
        anyoptim.get_optimizer(name, None, optim_target_modules="all-linear")
    with pytest.raises(anyoptim.OptimError, match=r"must be a torch\.nn\.Module, not list"):
        anyoptim.get_optimizer(name, list(llama().parameters()))


def test_a_ratio_with_known_steps_is_resolved_outside_the_trainer_too() -> None:
    args = {"warmup_steps": 0.1, "max_steps": 25, **FAR}
    optimizer = anyoptim.get_optimizer("schedule_free_sgd", llama(), args)
    assert {group["warmup_steps"] for group in optimizer.param_groups} == {3}
    older = {"warmup_steps": 0, "warmup_ratio": 0.1, "max_steps": 25, **FAR}
    assert anyoptim.plan("schedule_free_sgd", None, older).hyperparameters["warmup_steps"].value == 3


def test_optim_args_may_be_a_mapping() -> None:
    planned = plan("adamw_torch", optim_args={"betas": [0.8, 0.9], "amsgrad": "yes"})
    assert planned.hyperparameters["betas"].value == (0.8, 0.9)
    assert planned.hyperparameters["amsgrad"].value is True
