"""Fused backward in loops: accumulation, clipping, modules used several times, accelerate, threads, schedules."""

from __future__ import annotations

import contextlib
import copy
import threading
import warnings
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from accelerate import Accelerator
from engines import EVERYTHING, FUSED, Net, build, distance, gradients
from torch import nn
from toys import same_weights, weights

import anyoptim


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
def test_the_measuring_pass_of_clip_grad_norm_changes_nothing(name: str) -> None:
    model = Net(EVERYTHING)
    optimizer = build(name, model, lr=0.1)
    loss = model(1)
    optimizer.clip_grad_norm(loss, 0.5)
    assert same_weights(weights(model), weights(Net(EVERYTHING)))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not optimizer.state


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


@pytest.mark.parametrize("name", ["muon+prodigy", "muon+grokadamw", "muon"])
def test_clip_grad_norm_measures_gradients_that_wait_too(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    inputs = torch.randn(4, 8)
    plain = copy.deepcopy(model)
    plain(inputs).pow(2).sum().backward()
    expected = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
    optimizer: Any = anyoptim.get_optimizer(name, model, lr=1e-9, fallback_lr=1e-9, fused_backward=True)
    loss = model(inputs).pow(2).sum()
    torch.testing.assert_close(optimizer.clip_grad_norm(loss, 0.5), expected)
    assert all(each.grad is None for each in model.parameters())
    loss.backward()
    waiting = [each for each in model.parameters() if each.grad is not None]
    for each in waiting:  # what waits has come once
        name_of = next(key for key, other in model.named_parameters() if other is each)
        gradient = plain.get_parameter(name_of).grad
        assert gradient is not None
        assert each.grad is not None
        torch.testing.assert_close(each.grad * float(0.5 / (expected + 1e-6)), gradient)


def used_three_times(fused: bool, *, reentrant: bool) -> tuple[int, torch.Tensor]:
    torch.manual_seed(0)
    first, shared = nn.Linear(8, 8), nn.Linear(8, 8)
    model = nn.ModuleList([first, shared])
    optimizer = anyoptim.get_optimizer("adamw_torch", model, lr=1e-3, fused_backward=fused)
    for _ in range(2):
        x = first(torch.ones(2, 8))
        for _ in range(3):
            x = torch.utils.checkpoint.checkpoint(lambda y: shared(y).tanh(), x, use_reentrant=reentrant)
        x.pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return int(optimizer.state[shared.weight]["step"]), shared.weight.detach()


def test_a_module_used_several_times_is_updated_once() -> None:
    count, weight = used_three_times(True, reentrant=False)
    assert count == 2
    assert torch.equal(weight, used_three_times(False, reentrant=False)[1])


def test_gradients_that_come_in_parts_are_refused() -> None:
    with pytest.raises(anyoptim.UnsupportedError, match=r"gradient_checkpointing_kwargs=\{'use_reentrant': False\}"):
        used_three_times(True, reentrant=True)


def test_reentrant_checkpointing_of_modules_used_once_works() -> None:
    weights_of = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
        optimizer = anyoptim.get_optimizer("adamw_torch", model, lr=1e-3, fused_backward=fused)
        for _ in range(3):
            x = torch.ones(2, 8, requires_grad=True)
            for each in model:
                x = torch.utils.checkpoint.checkpoint(each, x, use_reentrant=True)
            x.pow(2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        weights_of.append(weights(model))
    assert same_weights(*weights_of)


def test_a_second_backward_pass_before_the_step_is_said_once() -> None:
    model = nn.Linear(4, 4)
    optimizer = anyoptim.get_optimizer("adalomo", model, lr=1e-3)
    model(torch.ones(1, 4)).sum().backward()
    with pytest.warns(UserWarning, match=r"call step\(\) after each, or set accumulating=True"):
        model(torch.ones(1, 4)).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.ones(1, 4)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("enable", [False, True])
@pytest.mark.parametrize("name", ["lomo", "adalomo", "adamw_torch"])
def test_accelerate_says_which_micro_batch_is_the_last(name: str, enable: bool) -> None:
    with anyoptim.enable() if enable else contextlib.nullcontext():
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        models = []
        for fused in (True, False):
            torch.manual_seed(0)
            model = nn.Linear(8, 8)
            optimizer = anyoptim.get_optimizer(name, model, lr=1e-2, fused_backward=fused)
            model, optimizer = accelerator.prepare(model, optimizer)
            for number in range(5):
                with accelerator.accumulate(model):
                    before = model.weight.detach().clone()
                    inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(number))
                    accelerator.backward(model(inputs).pow(2).mean())
                    assert accelerator.sync_gradients or torch.equal(before, model.weight)
                    if accelerator.sync_gradients and fused:
                        assert not torch.equal(before, model.weight)
                        with pytest.warns(UserWarning, match="clip_grad_norm_ has no effect"):
                            accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
            models.append(weights(model))
            accelerator.free_memory()
        assert same_weights(*models)
        accelerator.gradient_state._set_sync_gradients(True)


def _backward(model: nn.Module, inputs: torch.Tensor) -> None:
    model(inputs).square().mean().backward()


def test_threads_update_at_the_same_time() -> None:
    """Autograd runs hooks on a thread for each device."""
    torch.manual_seed(0)
    halves = [nn.Sequential(*(nn.Linear(64, 64) for _ in range(6))) for _ in "ab"]
    model = nn.ModuleList(halves)
    inputs = torch.randn(16, 64)
    expected = copy.deepcopy(model)
    plain = anyoptim.get_optimizer("adamw_torch", expected, lr=1e-3)
    optimizer = anyoptim.get_optimizer("adamw_torch", model, lr=1e-3, fused_backward=True)
    for _ in range(10):
        threads = [
            threading.Thread(target=lambda half=half: half(inputs).square().mean().backward()) for half in halves
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        optimizer.step()
        for half in expected:
            _backward(half, inputs)
        plain.step()
        plain.zero_grad()
    assert same_weights(weights(model), weights(expected))


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
