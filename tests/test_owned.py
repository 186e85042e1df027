"""Parameters that one process steps whole, and parts that each steps by itself: against one process."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from meshes import MESHES, as_one, batch, distance, net, one_step, optimizer, weights
from ranks import Cases, found
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from anyoptim.engines.composite import CompositeOptimizer
from anyoptim.engines.layout import layout_of, put, take
from anyoptim.engines.local_shards import LocalShards
from anyoptim.engines.owned import Owned

OWNED = ["lamb", "came", "shampoo", "novograd", "normuon", "galore_adamw", "muon"]
LOCAL = ["rprop", "pytorch_optimizer/adan"]
STEPS = 4


# ---------------------------------------------------------------- cases of ranks


def uneven(name: str) -> None:
    """Rows that do not divide, and fewer rows than processes."""
    model, alone = net(3, 5), net(3, 5)
    MESHES["fsdp"](model)
    split, one = optimizer(name, model), optimizer(name, alone)
    for step in range(STEPS):
        one_step_of(model, split, step)
        one_step_of(alone, one, step)
        assert distance(weights(model), weights(alone)) <= 1e-9, name


def one_step_of(model: nn.Module, built: Any, step: int) -> None:
    x = batch(step, 3)
    model.down(model.up(model.norm(x)).tanh()).square().mean().backward()
    built.step()
    built.zero_grad()


def owned_of(built: Any) -> Owned:
    """The facade, also where it is a part of a hybrid."""
    inside = built.optimizers.values() if isinstance(built, CompositeOptimizer) else [built]
    return next(each for each in inside if isinstance(each, Owned))


def each_has_one_owner(name: str) -> None:
    """State lies on one process only; a state dict holds DTensors that lie as the parameters do."""
    model = MESHES["fsdp"](net())
    built = optimizer(name, model)
    for step in range(2):
        one_step(model, built, step)
    facade = owned_of(built)
    rank = dist.get_rank()
    for parameter in facade.every():
        mine = bool(facade.state.get(parameter))
        assert mine == (facade.owner(parameter) == rank)
        assert not any(isinstance(each, DTensor) for each in facade.state[parameter].values())
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, [facade.owner(each) for each in facade.every()])
    assert all(each == told[0] for each in told)
    state = get_optimizer_state_dict(model, built)["state"]
    placed = dict(model.named_parameters())
    shaped = [
        (value, placed[key]) for key, held in state.items() for value in held.values() if isinstance(value, DTensor)
    ]
    assert shaped
    assert all(value.placements == parameter.placements for value, parameter in shaped)


def small_batches(name: str) -> None:
    """Many exchanges a step, each on its way while the one before is stepped, change nothing."""
    model, alone = net(), net()
    MESHES["fsdp"](model)
    split, one = optimizer(name, model), optimizer(name, alone)
    owned_of(split).bound = 64
    for step in range(STEPS):
        one_step(model, split, step)
        one_step(alone, one, step)
        assert distance(weights(model), weights(alone)) <= 1e-9


def a_gradient_on_one_rank_only(name: str) -> None:
    """The others' parts of it count as zeros, and no process waits for one that has nothing to send."""
    model, alone = net(), net()
    MESHES["fsdp"](model)
    split, one = optimizer(name, model), optimizer(name, alone)
    for step in range(STEPS):
        for each, other in zip(model.parameters(), alone.parameters(), strict=True):
            gradient = torch.randn(other.shape, generator=torch.Generator().manual_seed(step), dtype=other.dtype)
            layout = layout_of(each)
            mine = torch.zeros_like(gradient)
            put(mine, layout.regions[0], take(gradient, layout.regions[0]))
            other.grad = mine
            if dist.get_rank() == 0:
                mesh = each.device_mesh
                part = take(gradient, layout.regions[0]).clone()
                each.grad = DTensor.from_local(
                    part, mesh, each.placements, run_check=False, shape=each.shape, stride=each.stride()
                )
        split.step()
        one.step()
        split.zero_grad()
        assert distance(weights(model), weights(alone)) <= 1e-9


def no_gradient_anywhere(name: str) -> None:
    """A parameter that a step leaves out keeps its weights and its state."""
    model, alone = net(), net()
    MESHES["fsdp"](model)
    split, one = optimizer(name, model), optimizer(name, alone)
    for step in range(STEPS):
        for each, built in ((model, split), (alone, one)):
            loss = (each(batch(step), skips=step % 2 == 1)).square().mean()
            loss.backward()
            built.step()
            built.zero_grad()
        assert distance(weights(model), weights(alone)) <= 1e-9


def a_nan_on_one_rank(name: str) -> None:
    """Whole parameters are judged, so that all processes decide alike."""
    model, alone = net(), net()
    MESHES["fsdp"](model)
    split, one = optimizer(name, model), optimizer(name, alone)
    for step in range(2):
        for each, built in ((model, split), (alone, one)):
            each(batch(step)).square().mean().backward()
            gradient = each.up.weight.grad
            first = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            if not isinstance(gradient, DTensor) or dist.get_rank() == 0:
                first[0, 0] = math.nan
            built.step()
            built.zero_grad()
    mine, expected = weights(model), weights(alone)
    assert {name: bool(each.isnan().any()) for name, each in mine.items()} == {
        name: bool(each.isnan().any()) for name, each in expected.items()
    }
    assert all(torch.allclose(mine[key], expected[key], equal_nan=True) for key in expected)


def in_the_backward_pass(name: str, bound: int) -> None:
    """Gradients go to their owners as they come."""
    model, alone = net(), net()
    MESHES["fsdp"](model)
    split, one = optimizer(name, model, optim_args="fused_backward=true"), optimizer(name, alone)
    owned_of(split.optimizer).bound = bound
    before = weights(model)
    for step in range(STEPS):
        (model(batch(step)) - batch(step).roll(1, 0)).square().mean().backward()
        if bound == 1:
            assert distance(weights(model), before) > 0
        split.step()
        assert all(each.grad is None for each in model.parameters())
        one_step(alone, one, step)
        before = weights(model)
        assert distance(before, weights(alone)) <= 1e-9


def accumulates(name: str) -> None:
    model, alone = net(), net()
    MESHES["fsdp"](model)
    split, one = optimizer(name, model), optimizer(name, alone)
    for step in range(STEPS):
        for micro in range(2):
            for each in (model, alone):
                each(batch(2 * step + micro)).square().mean().backward()
        for each, built in ((model, split), (alone, one)):
            torch.nn.utils.clip_grad_norm_(each.parameters(), 0.1)
            built.step()
            built.zero_grad()
        assert distance(weights(model), weights(alone)) <= 1e-9


def replicas(name: str) -> None:
    """DDP's replicas have owners where that is asked for."""
    model, alone = net(), net()
    sharing = DistributedDataParallel(model)
    split, one = optimizer(name, model, optim_args="owned=true"), optimizer(name, alone)
    for step in range(STEPS):
        x = batch(step)
        mine = x.chunk(dist.get_world_size())[dist.get_rank()]
        sharing(mine).square().mean().backward()
        split.step()
        split.zero_grad()
        alone(x).square().mean().backward()
        one.step()
        one.zero_grad()
        assert distance(weights(model), weights(alone)) <= 1e-9
    held = sum(bool(split.state.get(each)) for each in model.parameters())
    assert held < len(list(model.parameters()))
    # every process has the whole of it, so that any may save it
    state = split.state_dict()
    same = one.state_dict()
    assert state["state"].keys() == same["state"].keys()
    again = optimizer(name, model, optim_args="owned=true")
    again.load_state_dict(state)
    for step in range(STEPS, STEPS + 2):
        one_step(model, again, step)
        one_step(alone, one, step)
        assert distance(weights(model), weights(alone)) <= 1e-9


def copies_train_alike(name: str) -> None:
    model = MESHES["tp"](net())
    built = optimizer(name, model)
    one_step(model, built, 0)
    other, copied = copy.deepcopy((model, built))
    one_step(model, built, 1)
    one_step(other, copied, 1)
    assert distance(weights(other), weights(model)) == 0


def added_group() -> None:
    """Owners stay where they are when parameters are added."""
    model, alone = net(), net()
    MESHES["fsdp"](model)
    split = Owned(torch.optim.AdamW([*model.up.parameters(), *model.down.parameters()], lr=0.01))
    one = torch.optim.AdamW([*alone.up.parameters(), *alone.down.parameters()], lr=0.01)
    one_step(model, split, 0)
    one_step(alone, one, 0)
    before = [split.owner(each) for each in split.every()]
    for each, built in ((model, split), (alone, one)):
        built.add_param_group({"params": list(each.norm.parameters())})
    for step in range(1, STEPS):
        one_step(model, split, step)
        one_step(alone, one, step)
    assert [split.owner(each) for each in split.every()][: len(before)] == before
    assert distance(weights(model), weights(alone)) <= 1e-9


def parts_are_stepped_by_themselves(name: str) -> None:
    """Nothing is sent, and state lies as the parameters do."""
    model = MESHES["fsdp"](net())
    built = optimizer(name, model)
    assert isinstance(built, LocalShards)
    one_step(model, built, 0)
    for parameter in model.parameters():
        for value in built.state[parameter].values():
            if isinstance(value, Tensor) and value.dim():
                assert isinstance(value, DTensor)
                assert value.placements == parameter.placements


def another_setting_needs_the_whole() -> None:
    """What makes an optimizer look at a whole tensor is owned; of APOLLO if it is so in every group."""
    model = MESHES["fsdp"](net())
    assert isinstance(optimizer("pytorch_optimizer/adan", model), LocalShards)
    assert isinstance(optimizer("pytorch_optimizer/adan", model, optim_args="use_gc=true"), Owned)
    assert not isinstance(optimizer("apollo_adamw", model), Owned)
    assert isinstance(optimizer("apollo_adamw", model, proj="svd"), Owned)


TWO: Cases = {
    **{f"uneven: {name}": partial(uneven, name) for name in (*OWNED, *LOCAL)},
    **{f"one owner: {name}": partial(each_has_one_owner, name) for name in OWNED},
    **{f"batches: {name}": partial(small_batches, name) for name in ("lamb", "muon")},
    **{f"one gradient: {name}": partial(a_gradient_on_one_rank_only, name) for name in ("lamb", "shampoo", "came")},
    **{f"no gradient: {name}": partial(no_gradient_anywhere, name) for name in ("lamb", "came", "rprop")},
    **{f"NaN: {name}": partial(a_nan_on_one_rank, name) for name in ("lamb", "came", "rprop")},
    **{
        f"backward: {name}, {bound}": partial(in_the_backward_pass, name, bound)
        for name in ("lamb", "came", "muon", "galore_adamw")
        for bound in (1, 2**26)
    },
    **{f"accumulated: {name}": partial(accumulates, name) for name in ("lamb", "came")},
    **{f"replicas: {name}": partial(replicas, name) for name in ("adamw_torch", "lamb", "muon", "normuon")},
    **{f"copies: {name}": partial(copies_train_alike, name) for name in ("lamb", "rprop")},
    "added group": added_group,
    **{f"parts: {name}": partial(parts_are_stepped_by_themselves, name) for name in LOCAL},
    "another setting": another_setting_needs_the_whole,
    **{f"{name} on tp": partial(as_one, name, "tp") for name in ("lamb", "came", *LOCAL)},
}
FOUR: Cases = {
    **{f"uneven: {name}": partial(uneven, name) for name in (*OWNED, *LOCAL)},
    **{f"replicas: {name}": partial(replicas, name) for name in ("adamw_torch", "lamb", "normuon")},
    **{
        f"{name} on {mesh}": partial(as_one, name, mesh)
        for name in (*OWNED, *LOCAL, "lookahead(lamb)", "normuon+lion", "cautious(came)")
        for mesh in ("fsdp_tp", "hsdp")
    },
}


@pytest.mark.parametrize("case", TWO)
def test_two_ranks(case: str, folder: Path) -> None:
    assert found(TWO, 2, folder / "owned-on-two.json")[case] == [""] * 2


@pytest.mark.parametrize("case", FOUR)
def test_four_ranks(case: str, folder: Path) -> None:
    assert found(FOUR, 4, folder / "owned-on-four.json")[case] == [""] * 4
