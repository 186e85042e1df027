"""Optimizers around optimizers: against the packages' own, arguments for both levels, stacks that cannot work."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from toys import arguments, data, inner, llama, same_weights, train, weights
from transformers import LlamaForCausalLM, Trainer

import anyoptim
from anyoptim.engines.closure import WithClosure

STEPS = 30
Model = torch.nn.Module


def small(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return model.double()


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(16, 6, generator=generator, dtype=torch.float64)
    return inputs, inputs[:, :3].sin()


def evaluated(model: Model, number: int) -> Callable[[], float]:
    def closure() -> float:
        model.zero_grad()
        inputs, wanted = batch(number)
        loss = torch.nn.functional.mse_loss(model(inputs), wanted)
        loss.backward()
        return float(loss)

    return closure


def steps(model: Model, optimizer: Any, *, closure: bool = False) -> None:
    if hasattr(optimizer, "train"):
        optimizer.train()
    for number in range(STEPS):
        evaluate = evaluated(model, number)
        evaluate()
        optimizer.step(evaluate) if closure else optimizer.step()


def largest_difference(left: Model, right: Model) -> float:
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    return max(float((one - other).detach().abs().max()) for one, other in pairs)


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


# ---------------------------------------------------------------- closures


def test_slow_weights_start_where_the_first_step_starts() -> None:
    """With a closure, gradients come within the step."""
    models = small(), small()
    for model, closure in zip(models, (True, False), strict=True):
        optimizer = anyoptim.get_optimizer("lookahead(sgd)", model, lr=0.1, lookahead_k=1, lookahead_alpha=0.5)
        for number in range(3):
            evaluate = evaluated(model, number)
            if closure:
                optimizer.zero_grad()
                optimizer.step(evaluate)  # type: ignore[arg-type]  # torch's closure may return a number
            else:
                evaluate()
                optimizer.step()
    assert largest_difference(*models) == 0


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
            evaluate = evaluated_in_fp32(model)
            evaluate()
            optimizer.step(evaluate) if isinstance(optimizer, WithClosure) else optimizer.step()
        finally:
            for handle in handles:
                handle.remove()
        assert seen == [optimizer] * 2, name


def evaluated_in_fp32(model: Model) -> Callable[[], float]:
    def closure() -> float:
        model.zero_grad()
        inputs, wanted = batch(0)
        loss = torch.nn.functional.mse_loss(model(inputs.float()), wanted.float())
        loss.backward()
        return float(loss)

    return closure


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


@pytest.mark.parametrize(("name", "evaluations"), [("sam(adamw_torch)", 1), ("lbfgs", 0)])
def test_running_statistics_move_once_a_step(name: str, evaluations: int) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3)).double()
    norm: Any = model[1]
    optimizer: Any = anyoptim.get_optimizer(name, model, lr=1e-2)
    for number in range(3):
        evaluate = evaluated(model, number)
        optimizer.zero_grad()
        for _ in range(evaluations):
            evaluate()
            after = norm.running_mean.clone()
        optimizer.step(evaluate)
        if evaluations:  # the statistics are those at the weights themselves
            assert torch.equal(after, norm.running_mean)
    assert int(norm.num_batches_tracked) == 3


@pytest.mark.trainer
@pytest.mark.parametrize("name", ["sam(adamw_torch)", "lbfgs"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_closures_in_the_trainer_are_a_loop_by_hand(
    name: str, accumulation: int, tmp_path: Path, enabled: None
) -> None:
    """The batches of a step are evaluated again, all of them, with the loss scaled as for the first time."""
    size = 8 // accumulation
    args = arguments(tmp_path, optim=name, learning_rate=1e-2, weight_decay=0.0, max_steps=4,
                     lr_scheduler_type="constant",
                     max_grad_norm=0.0, gradient_accumulation_steps=accumulation,
                     per_device_train_batch_size=size)  # fmt: skip
    seen: list[torch.Tensor] = []
    items: list[Any] = []  # what the loss is divided by; versions count it differently

    class Watched(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            items.append(kwargs.get("num_items_in_batch"))
            if not seen or not torch.equal(seen[-1], inputs["input_ids"]):
                torch.manual_seed(len(seen))  # for the signs that the estimate of the Hessian draws
            seen.append(inputs["input_ids"])
            return super().compute_loss(model, inputs, *args, **kwargs)

    trainer = train(llama(), args, Watched)
    model = llama()
    optimizer = anyoptim.get_optimizer(name, model, {"learning_rate": 1e-2, "weight_decay": 0.0})
    for number in range(4):
        inputs = _batches_of(number, seen, accumulation)

        def closure(inputs: list[torch.Tensor] = inputs) -> float:
            optimizer.zero_grad()
            total = 0.0
            for each in inputs:
                loss = model(input_ids=each, labels=each, num_items_in_batch=items[0]).loss
                loss = loss if items[0] is not None else loss / accumulation
                loss.backward()
                total += float(loss)
            return total

        closure()
        optimizer.step(closure)
    pairs = zip(trainer.model.parameters(), model.parameters(), strict=True)
    assert max(float((one - other).detach().abs().max()) for one, other in pairs) < 1e-5


def _batches_of(number: int, seen: list[torch.Tensor], accumulation: int) -> list[torch.Tensor]:
    """The different batches of a step: with accumulation, each evaluation goes through all of them."""
    unique: list[torch.Tensor] = []
    for each in seen:
        if not any(torch.equal(each, other) for other in unique):
            unique.append(each)
    return unique[number * accumulation : (number + 1) * accumulation]


@pytest.mark.trainer
def test_a_closure_repeats_the_batches_and_nothing_else(tmp_path: Path, enabled: None) -> None:
    """What a subclass does beside them, it does once: GRPO counts its steps, and generates its batches."""
    steps, prepared, losses = [], [], []

    class Counting(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            steps.append(self.state.global_step)
            return loss

        def _prepare_inputs(self, inputs: Any) -> Any:
            made = {**super()._prepare_inputs(inputs)}
            if self.model.training:
                made["input_ids"] = made["labels"] = torch.randint(256, (2, 16))  # as generated
                prepared.append(made["input_ids"])
            return made

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            losses.append(inputs["input_ids"])
            inputs.pop("attention_mask", None)
            return super().compute_loss(model, inputs, *args, **kwargs)

    args = arguments(tmp_path, optim="sam(sgd)", learning_rate=1e-2, max_steps=3, gradient_accumulation_steps=2)
    trainer = train(llama(), args, Counting)
    assert steps == [0, 0, 1, 1, 2, 2]
    assert len(prepared) == 6
    expected = [each for step in range(3) for _ in range(2) for each in prepared[2 * step : 2 * step + 2]]
    assert all(one is other for one, other in zip(losses, expected, strict=True))
    assert "_prepare_inputs" not in vars(trainer)


@pytest.mark.trainer
def test_a_trainer_that_computes_its_steps_by_itself_has_no_closure(tmp_path: Path, enabled: None) -> None:
    class Own(Trainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss = model(**inputs).loss
            self.accelerator.backward(loss)
            return loss.detach()

    model = llama()
    with pytest.raises(anyoptim.UnsupportedError, match="evaluates the loss again in every step"):
        train(model, arguments(tmp_path, optim="sam(sgd)", max_steps=1), Own)
    assert same_weights(weights(model), weights(llama()))


def test_a_step_without_a_closure_says_what_it_needs() -> None:
    model = llama()
    optimizer = anyoptim.get_optimizer("sam(sgd)", model)
    assert isinstance(optimizer, WithClosure)
    with pytest.raises(anyoptim.UnsupportedError, match=r"pass step\(\) a closure"):
        optimizer.step()


def test_loss_scaling_and_closures_do_not_go_together() -> None:
    for name in ("sam(sgd)", "lbfgs", "sophia"):
        with pytest.raises(anyoptim.UnsupportedError, match="use bf16=True"):
            anyoptim.plan(name, llama(), {"fp16": True})


@pytest.mark.trainer
def test_second_order_in_the_trainer_is_a_loop_by_hand(tmp_path: Path, enabled: None) -> None:
    """create_graph reaches the backward pass, so the Hessian is that of the loss."""
    pytest.importorskip("pytorch_optimizer")  # the older environments have it not
    name = "pytorch_optimizer/adahessian"
    args = arguments(tmp_path, optim=name, max_grad_norm=0.0, learning_rate=0.05, weight_decay=0.0, max_steps=1)
    seen: list[torch.Tensor] = []

    class Watched(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(inputs["input_ids"])
            torch.manual_seed(7)  # for the signs that the estimate of the Hessian draws
            return super().compute_loss(model, inputs, *args, **kwargs)

    model = _eager()
    other = copy.deepcopy(model)
    Watched(model, args, train_dataset=data()).train()
    optimizer = anyoptim.get_optimizer(name, other, lr=0.05, weight_decay=0.0)
    torch.manual_seed(7)
    other(input_ids=seen[0], labels=seen[0]).loss.backward(create_graph=True)
    optimizer.step()
    assert same_weights(weights(model), weights(other))
    assert not same_weights(weights(model), weights(llama()))


def test_what_keeps_its_parameters_is_refused_where_they_are_replaced() -> None:
    with pytest.raises(anyoptim.UnsupportedError, match="accelerate replaces under FSDP2"):
        anyoptim.plan("lbfgs", llama(), {"fsdp": True})


@pytest.mark.parametrize("name", ["sophia", "timm/adahessian"])
def test_attention_that_cannot_be_differentiated_twice_is_refused(name: str) -> None:
    with pytest.raises(anyoptim.UnsupportedError, match="attn_implementation='sdpa' does not support; load the model"):
        anyoptim.plan(name, llama())
    assert not anyoptim.plan(name, _eager()).advice


def test_attention_by_plain_operations_can_be_differentiated_twice() -> None:
    model, tokens = llama(), torch.arange(16).reshape(2, 8)
    with sdpa_kernel(SDPBackend.MATH):
        optimizer = anyoptim.get_optimizer("sophia", model, lr=1e-3)
        before = weights(model)
        model(input_ids=tokens, labels=tokens).loss.backward(create_graph=True)
        optimizer.step()
    assert not same_weights(before, weights(model))


def _eager() -> Any:
    model = llama()
    model.set_attn_implementation("eager")
    return model


# ---------------------------------------------------------------- what follows the loss


@pytest.mark.parametrize("name", ["emonavi", "emolynx", "emofact"])
def test_what_follows_the_loss_is_given_it(name: str, tmp_path: Path, enabled: None) -> None:
    """As a loop by hand with the package's own class, which keeps averages of the loss of each step."""
    model = llama()
    trainer = train(model, arguments(tmp_path, optim=f"pytorch_optimizer/{name}", max_steps=3, max_grad_norm=0.0))
    optimizer = inner(trainer.optimizer)
    expected: dict[str, float] = {}
    for row in trainer.state.log_history:
        if "loss" in row:
            for key, share in (("short", 0.3), ("medium", 0.05), ("long", 0.01)):
                expected[key] = share * row["loss"] + (1 - share) * expected.get(key, row["loss"])
    assert optimizer.state["ema"] == pytest.approx(expected, rel=1e-3)
    assert [len(group["params"]) for group in optimizer.param_groups] == [len(list(model.parameters()))]
    assert [group["step"] for group in optimizer.param_groups] == [3]


def test_what_takes_one_group_takes_no_other_and_says_so() -> None:
    planned = anyoptim.plan("pytorch_optimizer/emonavi", llama(), weight_decay=0.1)
    assert "weight_decay applies to every parameter" in planned.advice[0]
    with pytest.raises(anyoptim.OptimArgsError, match="counts its steps by group and so takes one; leave it out"):
        anyoptim.plan("pytorch_optimizer/emonavi", llama(), layer_decay=0.9)


def test_a_step_with_a_closure_is_not_fused_silently() -> None:
    with pytest.raises(anyoptim.UnsupportedError, match="its step evaluates the loss again"):
        anyoptim.plan("pytorch_optimizer/alig", llama(), optim_args="fused_backward=true")
