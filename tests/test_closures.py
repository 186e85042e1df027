"""Steps with a closure, in loops and in the Trainer, and what else follows the loss: second order, its value."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from regression import evaluated, largest_difference, small
from torch.nn.attention import SDPBackend, sdpa_kernel
from toys import arguments, data, inner, llama, same_weights, train, weights
from transformers import Trainer

import anyoptim
from anyoptim.engines.closure import WithClosure


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
