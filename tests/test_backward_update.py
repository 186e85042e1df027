"""LOMO and AdaLomo: against upstream, against a float64 transcription, and inside ordinary training loops."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import data, llama, plain_steps, same_weights, weights

from anyoptim.engines.adalomo import AdaLomo
from anyoptim.engines.backward_update import BackwardUpdate
from anyoptim.engines.lomo import Lomo

ENGINES = [Lomo, AdaLomo]


class Net(nn.Module):
    """A matrix, a vector and a stack of matrices, each with a gradient of its own."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(6, 4, generator=generator))
        self.vector = nn.Parameter(torch.randn(5, generator=generator))
        self.stack = nn.Parameter(torch.randn(2, 3, 4, generator=generator))

    def loss(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        return sum(
            (
                (each * torch.randn(each.shape, generator=generator, dtype=each.dtype)).sum()
                for each in self.parameters()
            ),
            start=torch.zeros((), dtype=self.matrix.dtype),
        )


def adalomo_in_float64(model: Net, steps: int, lr: float, **given: Any) -> dict[str, Tensor]:
    """Algorithm 1 of arXiv 2310.10195, plainly, on gradients that do not depend on the weights."""
    setting = {"eps": (1e-30, 1e-3), "clip_threshold": 1.0, "decay_rate": -0.8, "weight_decay": 0.0, **given}
    state: dict[str, Any] = {}
    results = {name: parameter.detach().double().clone() for name, parameter in model.named_parameters()}
    for step in range(1, steps + 1):
        generator = torch.Generator().manual_seed(step)
        beta = 1 - step ** setting["decay_rate"]
        for name, theta in results.items():
            g = torch.randn(theta.shape, generator=generator).double()
            squared = g**2 + setting["eps"][0]
            if theta.dim() == 1:
                v = beta * state.get(name, 0) + (1 - beta) * squared
                state[name] = v
            else:
                row, column = state.get(name, (0, 0))
                row = beta * row + (1 - beta) * squared.mean(-1)
                column = beta * column + (1 - beta) * squared.mean(-2)
                state[name] = (row, column)
                v = row.unsqueeze(-1) * column.unsqueeze(-2) / row.mean(-1)[..., None, None]
            u = g / v.sqrt()
            u = u / max(1.0, float(u.pow(2).mean().sqrt()) / setting["clip_threshold"])
            rate = lr * max(setting["eps"][1], float(theta.pow(2).mean().sqrt()))
            theta.mul_(1 - rate * setting["weight_decay"]).sub_(rate * u)
    return results


@pytest.mark.parametrize(
    "given",
    [{}, {"weight_decay": 0.1}, {"clip_threshold": 0.3}, {"decay_rate": -0.5}, {"eps": (1e-3, 10.0)}],
    ids=str,
)
def test_adalomo_is_the_papers_algorithm(given: dict[str, Any]) -> None:
    model = Net()
    expected = adalomo_in_float64(model, 200, 1e-2, **given)
    optimizer = AdaLomo(model.parameters(), lr=1e-2, **given)
    for step in range(1, 201):
        model.loss(step).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], rtol=1e-4, atol=1e-5)


def test_adalomo_is_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    """lomo_optim calls .cuda() in its constructor, so that is patched away here."""
    monkeypatch.setattr(Tensor, "cuda", lambda self: self)
    from lomo_optim import AdaLomo as Upstream

    theirs_model, ours_model = Net(), Net()
    del theirs_model.stack, ours_model.stack  # upstream's state has no form for a stack
    theirs = Upstream(theirs_model, lr=1e-2, weight_decay=0.1)
    ours = AdaLomo(ours_model.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(1, 51):
        theirs.fused_backward(theirs_model.loss(step), 1e-2)
        ours_model.loss(step).backward()
        for left, right in zip(theirs_model.parameters(), ours_model.parameters(), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)
    ours.step()


def test_lomo_is_sgd() -> None:
    expected_model, model = llama(), llama()
    plain_steps(expected_model, torch.optim.SGD(expected_model.parameters(), lr=0.1))
    plain_steps(model, Lomo(model.parameters(), lr=0.1))
    assert same_weights(weights(model), weights(expected_model))


def test_lomo_is_upstreams() -> None:
    from lomo_optim import Lomo as Upstream

    theirs_model, ours_model = Net(), Net()
    theirs = Upstream(theirs_model, lr=0.1, clip_grad_value=0.5)
    Lomo(ours_model.parameters(), lr=0.1, clip_grad_value=0.5)  # dropped at once: it must not train
    ours = Lomo(ours_model.parameters(), lr=0.1, clip_grad_value=0.5)
    for step in range(1, 51):
        theirs.fused_backward(theirs_model.loss(step), 0.1)
        ours_model.loss(step).backward()
    for left, right in zip(theirs_model.parameters(), ours_model.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)
    ours.step()


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_never_exist_together(engine: type[BackwardUpdate]) -> None:
    model = llama()
    optimizer = engine(model.parameters(), lr=1e-3)
    alive: list[int] = []
    update = optimizer.update

    def watched(parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        alive.append(sum(each.grad is not None for each in model.parameters()))
        update(parameter, gradient, group)

    optimizer.update = watched
    batch = data()[0]["input_ids"].unsqueeze(0)
    model(input_ids=batch, labels=batch).loss.backward()
    assert len(alive) == len(list(model.parameters()))
    assert max(alive) == 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("engine", ENGINES)
def test_accumulating_leaves_gradients_to_the_last_micro_batch(engine: type[BackwardUpdate]) -> None:
    models = Net(), Net()
    whole, parts = (engine(model.parameters(), lr=0.1) for model in models)
    (models[0].loss(1) + models[0].loss(2)).backward()
    parts.accumulating = True
    models[1].loss(1).backward()
    assert same_weights(weights(models[1]), weights(Net()))
    parts.accumulating = False
    models[1].loss(2).backward()
    for left, right in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(left, right)
    assert whole.param_groups[0]["lr"] == parts.param_groups[0]["lr"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resume_is_bit_equal(engine: type[BackwardUpdate], dtype: torch.dtype, tmp_path: Path) -> None:
    def build() -> tuple[Net, BackwardUpdate]:
        model = Net().to(dtype)
        return model, engine(model.parameters(), lr=0.01)

    straight, first = build()
    for step in range(20):
        straight.loss(step).backward()
        if step == 9:
            torch.save({"model": straight.state_dict(), "optimizer": first.state_dict()}, tmp_path / "saved.pt")
    resumed, second = build()
    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    resumed.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    for step in range(10, 20):
        resumed.loss(step).backward()
    assert same_weights(weights(resumed), weights(straight))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_dropped_optimizer_trains_no_more(engine: type[BackwardUpdate]) -> None:
    model = Net()
    optimizer = engine(model.parameters(), lr=0.1)
    before = weights(model)
    del optimizer
    gc.collect()
    model.loss(1).backward()
    assert same_weights(weights(model), before)


@pytest.mark.parametrize("engine", ENGINES)
def test_remove_turns_it_into_an_ordinary_optimizer(engine: type[BackwardUpdate]) -> None:
    fused_model, model = Net(), Net()
    fused, optimizer = engine(fused_model.parameters(), lr=0.1), engine(model.parameters(), lr=0.1)
    optimizer.remove()
    fused_model.loss(1).backward()
    model.loss(1).backward()
    assert same_weights(weights(model), weights(Net()))
    optimizer.step()
    fused.step()
    assert same_weights(weights(model), weights(fused_model))


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_parameters_and_sparse_gradients(engine: type[BackwardUpdate]) -> None:
    model = Net()
    model.vector.requires_grad_(False)
    before = model.vector.clone()
    engine(model.parameters(), lr=0.1).step()
    assert torch.equal(model.vector, before)
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = engine(embedding.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="sparse"):
        embedding(torch.tensor([1])).sum().backward()
    assert optimizer.state_dict()["state"] == {}


def test_lr_schedulers_work() -> None:
    model = Net()
    optimizer = Lomo(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    expected = {name: value.clone() for name, value in model.named_parameters()}
    for step, rate in enumerate((0.5, 0.75, 1.0), start=1):
        generator = torch.Generator().manual_seed(step)
        for value in expected.values():
            value.data.sub_(rate * torch.randn(value.shape, generator=generator))
        model.loss(step).backward()
        optimizer.step()
        scheduler.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-5, atol=1e-5)
