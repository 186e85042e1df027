"""Schedules: every class of torch on every kind of optimizer, and every kind of transformers on unequal rates."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim import Optimizer, lr_scheduler
from toys import arguments, data, llama, lora
from transformers import Trainer, get_scheduler
from transformers.trainer_utils import SchedulerType

import anyoptim

STEPS = 8

# ---------------------------------------------------------------- every schedule of torch

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "muon": {"lr": 0.02, "fallback_lr": 1e-3},
    "muon+lion": {"lr": 0.02, "fallback_lr": 1e-4},
    "adamw_torch+sgd": {"optim_target_modules": ["0", "1"], "lr": 1e-3, "fallback_lr": 0.1},
    "lookahead(lion)": {"lr": 1e-3},
    "cautious(adamw_torch)": {"lr": 1e-2},
    "orthograd(adamw_torch)": {"lr": 1e-2},
    "schedule_free(sgd)": {"lr": 0.1},
    "sam(adamw_torch)": {"lr": 1e-2},
    "lookahead(muon)": {"lr": 0.02, "fallback_lr": 1e-3},
    "adamw_torch": {"lr": 1e-2, "fused_backward": True},
    "adalomo+adamw_torch": {"optim_target_modules": ["0", "1"], "lr": 1e-2, "fallback_lr": 1e-3},
}
Schedule = Callable[[Optimizer], Any]


def highest(optimizer: Optimizer) -> list[float]:
    """Ten times each group's rate, for schedules that are told the highest one."""
    return [10 * group["lr"] for group in optimizer.param_groups]


def in_a_row(optimizer: Optimizer) -> lr_scheduler.SequentialLR:
    first, second = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(optimizer, 5)
    return lr_scheduler.SequentialLR(optimizer, [first, second], milestones=[3])


def has_momentum(optimizer: Optimizer) -> bool:
    """Whether torch's cyclic schedules find a momentum: not in Adafactor's kin and optimi's Lion, which they refuse."""
    return not {"momentum", "betas"}.isdisjoint(optimizer.defaults)


def cyclic(optimizer: Optimizer) -> lr_scheduler.CyclicLR:
    lowest = [each / 10 for each in highest(optimizer)]
    return lr_scheduler.CyclicLR(optimizer, lowest, highest(optimizer), 2, cycle_momentum=has_momentum(optimizer))


def one_cycle(optimizer: Optimizer) -> lr_scheduler.OneCycleLR:
    cycles = has_momentum(optimizer)
    return lr_scheduler.OneCycleLR(optimizer, highest(optimizer), total_steps=STEPS + 1, cycle_momentum=cycles)


SCHEDULES: dict[str, Schedule] = {
    "LambdaLR": lambda each: lr_scheduler.LambdaLR(each, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda each: lr_scheduler.MultiplicativeLR(each, lambda _: 0.8),
    "StepLR": lambda each: lr_scheduler.StepLR(each, 3),
    "MultiStepLR": lambda each: lr_scheduler.MultiStepLR(each, [2, 5]),
    "ConstantLR": lambda each: lr_scheduler.ConstantLR(each, total_iters=3),
    "LinearLR": lambda each: lr_scheduler.LinearLR(each, total_iters=3),
    "ExponentialLR": lambda each: lr_scheduler.ExponentialLR(each, 0.7),
    "SequentialLR": in_a_row,
    "PolynomialLR": lambda each: lr_scheduler.PolynomialLR(each, STEPS, 2.0),
    "CosineAnnealingLR": lambda each: lr_scheduler.CosineAnnealingLR(each, STEPS),
    "ChainedScheduler": lambda each: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(each, total_iters=3), lr_scheduler.ExponentialLR(each, 0.9)]
    ),
    "ReduceLROnPlateau": lambda each: lr_scheduler.ReduceLROnPlateau(each, patience=0),
    "CyclicLR": cyclic,
    "CosineAnnealingWarmRestarts": lambda each: lr_scheduler.CosineAnnealingWarmRestarts(each, 3),
    "OneCycleLR": one_cycle,
}
CHANGED = ("lr", "momentum", "betas")
"""What schedules of torch change in a group."""
Values = list[dict[str, Any]]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2))


def build(name: str, model: nn.Module) -> Optimizer:
    optimizer = anyoptim.get_optimizer(name, model, weight_decay=0.0, **OPTIMIZERS[name])
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def values(optimizer: Optimizer) -> Values:
    return [{key: group[key] for key in CHANGED if key in group} for group in optimizer.param_groups]


def run(model: nn.Module, optimizer: Optimizer, before: Callable[[int], None], after: Callable[[], None]) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(inputs).square().mean()
        loss.backward()
        return loss

    for step in range(STEPS):
        before(step)
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        closure()
        optimizer.step(closure if "closure" in vars(optimizer) else None)
        optimizer.zero_grad()
        after()


def advance(schedule: Any) -> None:
    schedule.step(*[1.0] * isinstance(schedule, lr_scheduler.ReduceLROnPlateau))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_schedule_of_torch_does_what_setting_its_values_by_hand_does(name: str, schedule: str) -> None:
    """Rates are those of torch's AdamW in the same groups; and each step takes the values that its groups hold."""
    scheduled, by_hand = net(), net()
    optimizer = build(name, scheduled)
    plain = torch.optim.AdamW(
        [{"params": [nn.Parameter(torch.ones(1))], "lr": each["lr"]} for each in values(optimizer)]
    )
    ours, theirs = SCHEDULES[schedule](optimizer), SCHEDULES[schedule](plain)
    held: list[Values] = []

    def check(_: int) -> None:
        held.append(values(optimizer))
        assert [each["lr"] for each in held[-1]] == [group["lr"] for group in plain.param_groups]

    def both() -> None:
        plain.step()
        advance(ours)
        advance(theirs)

    run(scheduled, optimizer, check, both)
    copied = build(name, by_hand)

    def set_by_hand(step: int) -> None:
        for group, found in zip(copied.param_groups, held[step], strict=True):
            group.update(found)

    run(by_hand, copied, set_by_hand, lambda: None)
    assert all(map(torch.equal, scheduled.parameters(), by_hand.parameters()))
    assert not any(map(torch.equal, scheduled.parameters(), net().parameters()))


def test_no_schedule_of_torch_is_left_out() -> None:
    theirs = {
        name
        for name, each in vars(lr_scheduler).items()
        if isinstance(each, type) and issubclass(each, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert theirs - {"LRScheduler"} == set(SCHEDULES)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rate_of_zero_moves_nothing(name: str) -> None:
    model = net()
    optimizer = build(name, model)
    lr_scheduler.LambdaLR(optimizer, lambda _: 0.0)
    run(model, optimizer, lambda _: None, lambda: None)
    assert all(map(torch.equal, model.parameters(), net().parameters()))


@pytest.mark.parametrize("name", ["muon", "muon+lion", "adamw_torch+sgd"])
def test_momentum_that_cycles_reaches_every_member(name: str) -> None:
    """OneCycleLR cycles ``betas`` where the main optimizer has them, else ``momentum``."""
    optimizer = build(name, net())
    schedule = lr_scheduler.OneCycleLR(optimizer, highest(optimizer), total_steps=10)
    key = "betas" if "betas" in optimizer.defaults else "momentum"
    seen = [group[key][0] if key == "betas" else group[key] for group in optimizer.param_groups]
    assert seen == [0.95] * len(seen)
    optimizer.step()
    schedule.step()
    assert all(group[key] != 0.95 for group in optimizer.param_groups)


# ---------------------------------------------------------------- every schedule of transformers

RATE, FLOOR = 1e-2, 1e-3
UNEQUAL: dict[str, tuple[str, Callable[[], nn.Module], dict[str, Any]]] = {
    "muon": ("muon", llama, {"fallback_lr": 3e-4}),
    "muon+lion": ("muon+lion", llama, {"fallback_lr": 1e-4}),
    "a higher fallback": ("muon+sgd", llama, {"fallback_lr": 0.1}),
    "LoRA+": ("adamw_torch", lora, {"lora_plus_ratio": 16.0}),
    "layer_decay": ("adamw_torch", llama, {"layer_decay": 0.5}),
    "layer_decay of a hybrid": ("muon", llama, {"layer_decay": 0.5, "fallback_lr": 3e-4}),
    "embedding_lr": ("adamw_torch", llama, {"embedding_lr": 1e-4}),
    "fused backward": ("lomo", llama, {"layer_decay": 0.5}),
    "a wrapper": ("lookahead(muon)", llama, {"fallback_lr": 3e-4}),
}
OWN: dict[str, dict[str, Any]] = {
    "cosine_with_min_lr": {"min_lr": FLOOR},
    "cosine_warmup_with_min_lr": {"min_lr": FLOOR, "warmup_lr_rate": 0.1},
    "polynomial": {"lr_end": FLOOR},
    "warmup_stable_decay": {"num_decay_steps": 4, "min_lr_ratio": FLOOR / RATE},
    # torch and transformers take these two floors as they are, for every group
    "reduce_lr_on_plateau": {"patience": 3},
    "greedy": {"patience": 0, "min_lr": 1e-9, "factor": 0.5},
}
"""What a kind of schedule takes, beside steps."""
TO_THE_FLOOR = ("cosine_with_min_lr", "cosine_warmup_with_min_lr", "polynomial", "warmup_stable_decay")


def rates(optimizer: Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("kind", [each.value for each in SchedulerType])
@pytest.mark.parametrize("case", UNEQUAL)
def test_rates_keep_their_proportion_over_a_schedule_of_transformers(case: str, kind: str) -> None:
    name, model, overrides = UNEQUAL[case]
    optimizer = anyoptim.get_optimizer(name, model(), lr=RATE, **overrides)
    first = rates(optimizer)
    assert len(set(first)) > 1
    schedule = get_scheduler(kind, optimizer, 2, 10, scheduler_specific_kwargs=OWN.get(kind, {}))
    seen = []
    for _ in range(10):
        optimizer.step()
        schedule.step(*[1.0] * (kind in ("reduce_lr_on_plateau", "greedy")))
        seen.append(rates(optimizer))
    factors = [[rate / start for rate, start in zip(row, first, strict=True)] for row in seen]
    for row in factors:
        assert row == pytest.approx([row[0]] * len(row), rel=1e-9)
    assert (kind == "constant") == (seen == [first] * len(seen))
    if kind in TO_THE_FLOOR:  # a group at the rate that args name ends at the floor that they name
        assert min(row[0] for row in factors[2:]) == pytest.approx(FLOOR / RATE, rel=1e-9)


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
def test_the_floor_of_a_trainer_is_the_main_optimizers(tmp_path: Path) -> None:
    args = arguments(
        tmp_path,
        optim="muon",
        learning_rate=0.02,
        optim_args="fallback_lr=3e-3",
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr": 0.002},
    )
    trainer = Trainer(llama(), args, train_dataset=data())
    trainer.create_optimizer_and_scheduler(10)
    first = rates(trainer.optimizer)
    for _ in range(10):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates(trainer.optimizer) == pytest.approx([each / 10 for each in first])


# ---------------------------------------------------------------- hybrids without empty groups


@pytest.mark.parametrize("name", ["muon", "muon+lion", "muon+sgd", "adamw_torch+sgd", "lookahead(muon)"])
def test_a_hybrid_of_one_member_is_loaded_by_parameter_and_goes_on(name: str) -> None:
    """A model of targets alone: as torch's checkpoints for any mesh load it, and equal to a run that went on."""

    def targets() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(4)))

    def built(model: nn.Module) -> Optimizer:
        settings = {key: value for key, value in OPTIMIZERS.get(name, {}).items() if key != "optim_target_modules"}
        return anyoptim.get_optimizer(name, model, optim_target_modules=[r"\d"], **settings)

    def steps(model: nn.Module, optimizer: Optimizer, seeds: range) -> None:
        for seed in seeds:
            model(torch.randn(3, 6, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    straight, resumed = targets(), targets()
    optimizer = built(straight)
    assert all(group["params"] for group in optimizer.param_groups)
    steps(straight, optimizer, range(3))
    resumed.load_state_dict(straight.state_dict())
    other = built(resumed)
    set_optimizer_state_dict(resumed, other, copy.deepcopy(get_optimizer_state_dict(straight, optimizer)))
    steps(straight, optimizer, range(3, 6))
    steps(resumed, other, range(3, 6))
    assert all(map(torch.equal, straight.parameters(), resumed.parameters()))
