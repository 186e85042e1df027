"""What LOMO and AdaLomo share: updates inside the backward pass, in ordinary training loops."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from engines import FUSED, SHAPES, STACKS, Net, build, distance, gradients
from torch import Tensor
from toys import data, llama, plain_steps, same_weights, weights

import anyoptim
from anyoptim.engines.lomo import Lomo

EVERYTHING = {**SHAPES, **STACKS}


def test_lomo_is_sgd() -> None:
    expected_model, model = llama(), llama()
    plain_steps(expected_model, torch.optim.SGD(expected_model.parameters(), lr=0.1))
    plain_steps(model, Lomo(model.parameters(), lr=0.1))
    assert same_weights(weights(model), weights(expected_model))


@pytest.mark.parametrize("name", FUSED)
def test_gradients_never_exist_together(name: str) -> None:
    model = llama()
    optimizer = build(name, model)
    alive: list[int] = []
    touched: list[Tensor] = []
    update = optimizer.update

    def watched(parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        alive.append(sum(each.grad is not None for each in model.parameters()))
        touched.append(parameter)
        update(parameter, gradient, group)

    optimizer.update = watched
    batch = data()[0]["input_ids"].unsqueeze(0)
    model(input_ids=batch, labels=batch).loss.backward()
    assert sorted(map(id, touched)) == sorted(map(id, model.parameters()))
    assert max(alive) == 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", FUSED)
def test_accumulating_leaves_gradients_to_the_last_micro_batch(name: str) -> None:
    models = Net(EVERYTHING), Net(EVERYTHING)
    _, parts = kept = [build(name, model, lr=0.1) for model in models]
    (models[0](1) + models[0](2)).backward()
    parts.accumulating = True
    models[1](1).backward()
    assert same_weights(weights(models[1]), weights(Net(EVERYTHING)))
    parts.accumulating = False
    models[1](2).backward()
    assert distance(weights(models[1]), weights(models[0])) < 1e-6
    assert len(kept) == 2


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


@pytest.mark.parametrize("name", FUSED)
def test_the_measuring_pass_of_clip_grad_norm_changes_nothing(name: str) -> None:
    model = Net(EVERYTHING)
    optimizer = build(name, model, lr=0.1)
    loss = model(1)
    optimizer.clip_grad_norm(loss, 0.5)
    assert same_weights(weights(model), weights(Net(EVERYTHING)))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert optimizer.state_dict()["state"] == {}


def test_a_clipped_norm_lasts_until_the_step() -> None:
    model = Net({"vector": (5,)})
    optimizer = build("lomo", model, lr=1.0)
    for step, clipped in ((1, True), (2, False)):
        before, loss = model.vector.detach().clone(), model(step)
        if clipped:
            optimizer.clip_grad_norm(loss, 0.5)
        loss.backward()
        optimizer.step()
        expected = 0.5 if clipped else gradients({"vector": (5,)}, step)["vector"].norm().item()
        assert (model.vector - before).norm().item() == pytest.approx(expected, rel=1e-4)


def test_clip_grad_norm_cannot_measure_what_was_accumulated_before() -> None:
    model = Net(EVERYTHING)
    optimizer = build("lomo", model)
    optimizer.accumulating = True
    model(1).backward()
    with pytest.raises(anyoptim.UnsupportedError, match="no gradients may be accumulated before"):
        optimizer.clip_grad_norm(model(2), 1.0)
    assert distance({"tall": model.tall.grad}, gradients({"tall": (12, 8)}, 1)) == 0


def test_lr_schedulers_work() -> None:
    model = Net({"vector": (5,)})
    optimizer = build("lomo", model, lr=1.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    expected = model.vector.detach().clone()
    for step, rate in enumerate((0.5, 0.75, 1.0), start=1):
        expected -= rate * gradients({"vector": (5,)}, step)["vector"]
        model(step).backward()
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(model.vector.detach(), expected, rtol=1e-5, atol=1e-5)
