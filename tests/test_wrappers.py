"""Optimizers around optimizers: against the packages' own, arguments for both levels, stacks that cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from regression import evaluated, largest_difference, small, steps
from toys import arguments, data, inner, llama, same_weights, train, weights
from transformers import LlamaForCausalLM, Trainer

import anyoptim
from anyoptim.engines.closure import WithClosure


def theirs_lookahead(params: Any) -> Any:
    from pytorch_optimizer import Lookahead

    return Lookahead(torch.optim.AdamW(params, lr=0.01, weight_decay=0.0), k=4, alpha=0.3)


def theirs_orthograd(params: Any) -> Any:
    from pytorch_optimizer import OrthoGrad

    return OrthoGrad(torch.optim.AdamW(params, lr=0.01, weight_decay=0.0))


def theirs_cautious(params: Any) -> Any:
    constructor: Any = anyoptim.optimizer_info("timm/cadamw").default.load()
    return constructor(params, lr=0.01, weight_decay=0.0, caution=True)


def theirs_schedule_free(params: Any) -> Any:
    from schedulefree import ScheduleFreeWrapper

    return ScheduleFreeWrapper(torch.optim.SGD(params, lr=0.5), momentum=0.8, r=1.0)


def theirs_sam(params: Any) -> Any:
    from pytorch_optimizer import SAM

    return SAM(params, torch.optim.SGD, rho=0.1, lr=0.1)


def theirs_asam(params: Any) -> Any:
    from pytorch_optimizer import SAM

    return SAM(params, torch.optim.SGD, rho=0.1, adaptive=True, lr=0.1)


@pytest.mark.parametrize(
    ("name", "theirs", "settings", "bound"),
    [
        ("lookahead(adamw_torch)", theirs_lookahead, "lr=0.01,lookahead_k=4,lookahead_alpha=0.3", 1e-12),
        # theirs rounds what it divides by up to 1e-30, too, and keeps the norm in fp32
        ("orthograd(adamw_torch)", theirs_orthograd, "lr=0.01", 1e-6),
        ("cautious(adamw_torch)", theirs_cautious, "lr=0.01", 1e-9),
        (
            "schedule_free(sgd)",
            theirs_schedule_free,
            "lr=0.5,schedule_free_momentum=0.8,schedule_free_r=1.0",
            1e-12,
        ),
        ("sam(sgd)", theirs_sam, "lr=0.1,sam_rho=0.1", 1e-9),
        ("sam(sgd)", theirs_asam, "lr=0.1,sam_rho=0.1,sam_adaptive=true", 1e-9),
    ],
)
def test_against_the_packages_own(name: str, theirs: Any, settings: str, bound: float) -> None:
    mine, other = small(), small()
    closure = name.startswith("sam")
    optimizer = anyoptim.get_optimizer(name, mine, weight_decay=0.0, optim_args=settings)
    reference = theirs(other.parameters())
    steps(mine, optimizer, closure=closure)
    steps(other, reference, closure=closure)
    assert largest_difference(mine, other) <= bound
    if hasattr(optimizer, "eval"):
        optimizer.eval()
        reference.eval()
        assert largest_difference(mine, other) <= bound
        optimizer.train()
        reference.train()
        assert largest_difference(mine, other) <= bound
    plain = small()
    steps(plain, torch.optim.SGD(plain.parameters(), lr=0.1))
    assert largest_difference(mine, plain) > 1e-3  # the wrapper does something


def test_cautious_decays_every_element() -> None:
    model = small()
    optimizer = anyoptim.get_optimizer("cautious(sgd)", model, lr=0.1, weight_decay=0.5)
    weight = next(model.parameters())
    before = weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before * (1 - 0.1 * 0.5))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]


def test_cautious_decays_by_the_rate_that_prodigy_estimates() -> None:
    """A decay by its lr of 1.0 instead makes the norm 1682."""
    norms = []
    for name in ("prodigy", "cautious(prodigy)"):
        torch.manual_seed(0)
        model = torch.nn.Linear(16, 16, bias=False)
        optimizer = anyoptim.get_optimizer(name, model, lr=1.0, weight_decay=0.01)
        for _ in range(300):
            model.weight.grad = torch.randn(16, 16) * 1e-3
            optimizer.step()
        norms.append(float(model.weight.detach().norm()))
    assert norms[1] == pytest.approx(norms[0], rel=0.1)


@pytest.mark.parametrize("wrapper", ["cautious", "schedule_free", "lookahead(cautious"])
@pytest.mark.parametrize(
    ("inner_name", "optim_args"),
    [
        ("adafactor", "relative_step=true,lr=none"),
        ("timm/adafactor", "lr=none"),
        ("pytorch_optimizer/a2grad", ""),
        ("muon+adafactor", "fallback_relative_step=true,fallback_lr=none"),
    ],
)
def test_wrappers_that_compute_with_a_rate_need_one(wrapper: str, inner_name: str, optim_args: str) -> None:
    name = f"{wrapper}({inner_name})" + ")" * wrapper.count("(")
    asked = r"computes with the learning rate of \S*(adafactor|a2grad), which has none here; set lr in optim_args"
    with pytest.raises(anyoptim.UnsupportedError, match=asked):
        anyoptim.plan(name, llama(), optim_args=optim_args)


def test_other_wrappers_need_no_rate() -> None:
    anyoptim.get_optimizer("lookahead(adafactor)", llama(), optim_args="relative_step=true,lr=none")
    anyoptim.get_optimizer("cautious(adafactor)", llama(), lr=1e-3)


def test_arguments_of_every_level() -> None:
    plan = anyoptim.plan(
        "lookahead(orthograd(optimi/lion))",
        llama(),
        optim_args="beta1=0.8,weight_decay=0.2,lookahead_k=3,lookahead_alpha=0.25,orthograd_eps=1e-20",
    )
    values = {name: setting.value for name, setting in plan.hyperparameters.items()}
    assert values["betas"] == (0.8, 0.99)
    assert (values["lookahead_k"], values["lookahead_alpha"], values["orthograd_eps"]) == (3, 0.25, 1e-20)
    optimizer: Any = plan.build()
    group = optimizer.param_groups[0]
    assert (group["lookahead_k"], group["orthograd_eps"]) == (3, 1e-20)
    assert type(optimizer.optimizer.optimizer).__name__ == "Lion"
    assert optimizer.param_groups is optimizer.optimizer.optimizer.param_groups
    for wrong, right in [("lookahead_kk=3", "lookahead_k"), ("k=3", ""), ("lookahead_alpha=2", r"in \[0, 1\]")]:
        with pytest.raises(anyoptim.OptimArgsError, match=right):
            anyoptim.plan("lookahead(orthograd(optimi/lion))", llama(), optim_args=wrong)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lookahead", r"goes around another optimizer: write lookahead\(adamw_torch\)"),
        ("lookahead()", "No optimizer is called"),
        ("sgd(adamw_torch)", "sgd is no wrapper"),
        ("lookahead(orthograd)", "is a wrapper itself"),
        ("lookahead(lookahead(sgd))", "twice"),
        ("lookahead(orthograd(lookahead(sgd)))", "twice"),
        ("schedule_free(schedule_free_sgd)", "averages weights already"),
        ("lookahead(schedule_free(sgd))", "cannot work"),
        ("cautious(sam(sgd))", "cannot work"),
        ("sam(lbfgs)", "cannot work"),
        ("sam(pytorch_optimizer/adahessian)", "cannot work"),
        ("lookahead(pytorch_optimizer/lomo)", "backward pass of its own"),
        ("lookahead(lomo_optim/lomo)", "inside the backward pass"),
        ("cpu_offload(muon)", "one optimizer for each parameter"),
        ("cpu_offload(adamw_torch)", "needs a CUDA GPU"),
        ("lookahead(sgd)+lion_8bit", r"around a pair, as in lookahead\(muon\+lion\)"),
        ("muon+lookahead(sgd)", r"around a pair"),
        ("lookahed(sgd)", "Did you mean 'lookahead'"),
        ("lookahead(sdg)", "Did you mean 'sgd'"),
    ],
)
def test_stacks_that_cannot_work(name: str, message: str) -> None:
    with pytest.raises(anyoptim.OptimError, match=message):
        anyoptim.get_optimizer(name, llama())


def test_fused_backward_is_refused_with_the_reason() -> None:
    with pytest.raises(anyoptim.UnsupportedError, match="lookahead needs every gradient of a step at once"):
        anyoptim.get_optimizer("lookahead(sgd)", llama(), fused_backward=True)


@pytest.mark.trainer
@pytest.mark.parametrize(
    "name", ["lookahead(adamw_torch)", "schedule_free(sgd)", "Lookahead(Cautious(Muon+SGD))", "orthograd(grokadamw)"]
)
def test_the_trainer_builds_what_get_optimizer_builds(name: str, tmp_path: Path, enabled: None) -> None:
    args = arguments(tmp_path, optim=name, learning_rate=1e-2, weight_decay=0.1, max_steps=6, max_grad_norm=0.0)
    trainer = train(llama(), args)
    model = llama()
    optimizer = anyoptim.get_optimizer(name, model, args)
    other = Trainer(model, args, train_dataset=data(), optimizers=(optimizer, None))
    other.train()
    assert same_weights(weights(trainer.model), weights(model))
    assert type(inner(trainer.optimizer)).__name__.lower() == name.partition("(")[0].replace("_", "").lower()


@pytest.mark.trainer
def test_a_schedule_free_wrapper_saves_the_average(tmp_path: Path, enabled: None) -> None:
    args = arguments(tmp_path, optim="schedule_free(sgd)", learning_rate=1.0, save_strategy="steps", save_steps=4,
                     max_steps=8)  # fmt: skip
    trainer = train(llama(), args)
    last = weights(trainer.model)  # after train() it holds the average
    saved = LlamaForCausalLM.from_pretrained(tmp_path / "checkpoint-8")
    assert same_weights(weights(saved), last)
    trainer.optimizer.optimizer.train()
    assert not same_weights(weights(trainer.model), last)


@pytest.mark.parametrize("inner_name", ["adamw_torch", "sgd"])
@pytest.mark.parametrize("wrapper", ["lookahead", "orthograd", "cautious", "schedule_free", "sam"])
def test_complex_parameters_are_pairs_of_real_ones(wrapper: str, inner_name: str) -> None:
    """As torch's own optimizers take them; but for ASAM, whose distance is relative to a complex weight's size."""
    start = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for is_complex in (True, False):
        model = torch.nn.Module()
        model.w = torch.nn.Parameter(torch.view_as_complex(start.clone()) if is_complex else start.clone())
        optimizer: Any = anyoptim.get_optimizer(f"{wrapper}({inner_name})", model, lr=0.05)

        def evaluate(number: int, model: Any = model, optimizer: Any = optimizer) -> float:
            optimizer.zero_grad()
            weight = torch.view_as_real(model.w) if model.w.is_complex() else model.w
            target = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
            loss = (weight - target).pow(2).sum()
            loss.backward()
            return float(loss)

        if hasattr(optimizer, "train"):
            optimizer.train()
        for number in range(1, 5):
            evaluate(number)
            if wrapper == "sam":
                optimizer.step(lambda number=number, evaluate=evaluate: evaluate(number))
            else:
                optimizer.step()
        found.append(torch.view_as_real(model.w).detach() if is_complex else model.w.detach())
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_hooks_of_the_whole_process_run_once_a_step() -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    for name in (
        "lookahead(orthograd(muon+lion))",
        "schedule_free(sgd)",
        "muon",
        "heavyball/adamw",
        "sam(adamw_torch)",
    ):
        model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 3))
        optimizer: Any = anyoptim.get_optimizer(name, model, lr=1e-3)
        if hasattr(optimizer, "train"):
            optimizer.train()
        seen: list[object] = []
        handles = [
            register_optimizer_step_pre_hook(lambda it, *_, seen=seen: seen.append(it)),
            register_optimizer_step_post_hook(lambda it, *_, seen=seen: seen.append(it)),
        ]
        try:
            evaluate = evaluated(model, 0)
            evaluate()
            optimizer.step(evaluate) if isinstance(optimizer, WithClosure) else optimizer.step()
        finally:
            for handle in handles:
                handle.remove()
        assert seen == [optimizer] * 2, name


def test_updates_in_the_backward_pass_run_no_hooks_of_the_whole_process() -> None:
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    model = small()
    optimizer = anyoptim.get_optimizer("adamw_torch", model, lr=1e-3, fused_backward=True)
    seen: list[object] = []
    handle = register_optimizer_step_pre_hook(lambda it, *_: seen.append(it))
    try:
        evaluated(model, 0)()
        optimizer.step()
    finally:
        handle.remove()
    assert seen == [optimizer]
