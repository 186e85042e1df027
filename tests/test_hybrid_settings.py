"""Hybrids by name and settings: which pairs can be, and what each part takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toys import arguments, data, inner, llama
from transformers import Trainer

import anyoptim
from anyoptim.engines.composite import CompositeOptimizer


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("muon+lyon", "No optimizer is called 'lyon'"),
        ("muno+sgd", "Did you mean 'muon'"),
        ("muon+", "is no pair"),
        ("a+b+c", "is no pair"),
        ("sgd+apollo_adamw", "apollo_adamw works on target modules"),
        ("sgd+muon", "muon works on target modules"),
        ("sgd+sgd", "is sgd twice"),
    ],
)
def test_pairs_that_cannot_be(name: str, message: str) -> None:
    with pytest.raises(anyoptim.OptimError, match=message):
        anyoptim.optimizer_info(name)


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
def test_a_pair_is_a_value_of_optim(tmp_path: Path) -> None:
    args = arguments(tmp_path, optim="Muon+SGD", max_steps=2)
    assert str(args.optim.value) == "muon+sgd"
    trainer = Trainer(llama(), args, train_dataset=data())
    trainer.train()
    assert isinstance(inner(trainer.optimizer), CompositeOptimizer)
    with pytest.raises(ValueError, match="called 'lyon'"):
        arguments(tmp_path, optim="muon+lyon")


def test_what_the_fallback_takes_over() -> None:
    def found(**given: Any) -> tuple[Any, ...]:
        args = {"learning_rate": 1e-3, "weight_decay": 0.2, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-7}
        values = anyoptim.plan("muon", llama(), args, **given).hyperparameters
        return tuple(values[key].value for key in ("lr", "fallback_lr", "weight_decay", "fallback_weight_decay"))

    assert found() == (1e-3, 1e-3, 0.2, 0.2)
    assert found(optim_args="lr=0.02") == (0.02, 0.02, 0.2, 0.2)
    assert found(optim_args="fallback_lr=3e-4", lr=0.02) == (0.02, 3e-4, 0.2, 0.2)
    assert found(fallback_weight_decay=0.0) == (1e-3, 1e-3, 0.2, 0.0)
    args = {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6}
    values = anyoptim.plan("muon", llama(), args).hyperparameters
    assert (values["fallback_betas"].value, values["fallback_eps"].value, values["eps"].value) == (
        (0.8, 0.95),
        1e-6,
        1e-7,
    )
    assert values["fallback_weight_decay"].value == 0.01  # nobody set one: AdamW's own
    values = anyoptim.plan("muon", llama(), optim_args="fallback_beta2=0.9").hyperparameters
    assert values["fallback_betas"].value == (0.9, 0.9)


@pytest.mark.usefixtures("enabled")
def test_a_warmup_ratio_reaches_the_fallback_as_steps(tmp_path: Path) -> None:
    name, ratio = "muon+schedule_free_adamw", {"warmup_steps": 0.25, "lr_scheduler_type": "constant"}
    with pytest.raises(anyoptim.OptimArgsError, match="number of training steps"):
        anyoptim.get_optimizer(name, llama(), ratio)
    args = arguments(tmp_path, optim=name, max_steps=-1, num_train_epochs=1, **ratio)
    trainer = Trainer(llama(), args, train_dataset=data())
    trainer.create_optimizer_and_scheduler(40)
    found = [group.get("warmup_steps") for group in trainer.optimizer.param_groups]
    assert found == [10, 10, None]


def test_one_rate_for_two_optimizers_is_said() -> None:
    def said(**given: Any) -> bool:
        return any("whose usual rates differ" in each for each in anyoptim.plan("muon", llama(), **given).advice)

    assert said(lr=0.02)
    assert not said(lr=0.02, fallback_lr=1e-3)
    assert not said(lr=1e-3, adjust_lr_fn="match_rms_adamw")


def test_overrides_reach_the_optimizer_that_has_them() -> None:
    model = llama()
    optimizer = anyoptim.get_optimizer(
        "muon", model, optim_args=r"layers\.0@momentum=0.5,lm_head@betas=(0.5,0.6)", lr=1e-2
    )
    held = {id(each): group for group in optimizer.param_groups for each in group["params"]}
    assert held[id(model.model.layers[0].mlp.up_proj.weight)]["momentum"] == 0.5
    assert held[id(model.model.layers[1].mlp.up_proj.weight)]["momentum"] == 0.95
    assert held[id(model.lm_head.weight)]["betas"] == (0.5, 0.6)
    with pytest.raises(anyoptim.OptimArgsError, match="sets momentum, which only a target of muon takes"):
        anyoptim.plan("muon", model, optim_args="lm_head@momentum=0.5")
