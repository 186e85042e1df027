"""Packed weights and state on several ranks: the bits of one process, lying as the parameters do."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from halves import assert_same
from meshes import MESHES, net, one_step, optimizer, whole
from ranks import Cases, found
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import anyoptim
from anyoptim.memory.state import local_bytes

PACKED = "master_weights=24bit,state_dtype=int8"
NAMES = ["adamw_torch", "muon", "lamb", "rprop", "apollo_adamw", "adalomo", "schedule_free_adamw"]
WAYS = [PACKED, "master_weights=32bit,state_dtype=int4", "master_weights=kahan,state_dtype=bf16"]
STEPS = 4


def half(*sizes: int) -> nn.Module:
    return net(*(sizes or (40, 66)), dtype=torch.bfloat16)


def wide(model: nn.Module, built: Any) -> dict[str, Tensor]:
    return {name: whole(each).clone() for name, each in anyoptim.fp32_weights(model, built).items()}


def equal_to_one(name: str, args: str, mesh: str, *sizes: int) -> None:
    """The weights and what lies behind them, after every step."""
    model, alone = MESHES[mesh](half(*sizes)), half(*sizes)
    split, one = optimizer(name, model, optim_args=args), optimizer(name, alone, optim_args=args)
    assert not split.state  # what turns weights makes none
    before = wide(alone, one)
    for step in range(STEPS):
        one_step(model, split, step)
        one_step(alone, one, step)
        assert_same(wide(model, split), wide(alone, one))
    assert all(not torch.equal(before[key], value) for key, value in wide(alone, one).items())


def near_one(name: str, args: str, mesh: str) -> None:
    """Where a layer is split, sums in bf16 come in another order."""
    model, alone = MESHES[mesh](half()), half()
    split, one = optimizer(name, model, optim_args=args), optimizer(name, alone, optim_args=args)
    for step in range(2):
        one_step(model, split, step)
        one_step(alone, one, step)
    found = wide(model, split)
    assert all((found[key] - value).norm() <= 0.05 * value.norm() + 0.02 for key, value in wide(alone, one).items())


def turned_and_back() -> None:
    """Schedule-free: the average is that of one process, and so is what goes on from it."""
    model, alone = MESHES["fsdp"](half()), half()
    args = "master_weights=32bit,state_dtype=int8"
    split, one = (optimizer("schedule_free_adamw", each, optim_args=args) for each in (model, alone))
    for step in range(STEPS):
        one_step(model, split, step)
        one_step(alone, one, step)
        training = wide(alone, one)
        for each in (split, one):
            each.eval()
        assert_same(wide(model, split), wide(alone, one))
        assert step == 0 or any(not torch.equal(value, training[key]) for key, value in wide(alone, one).items())
        for each in (split, one):
            each.train()
        assert_same(wide(model, split), wide(alone, one))


def replicas_equal_one(name: str, args: str) -> None:
    """Under DDP each process has all of it, and rounds as the others do, by chance too."""
    model, alone = half(), half()
    sharing = DistributedDataParallel(model)
    split, one = optimizer(name, sharing.module, optim_args=args), optimizer(name, alone, optim_args=args)
    for step in range(STEPS):
        one_step(sharing, split, step)
        one_step(alone, one, step)
        assert_same(wide(model, split), wide(alone, one))


def packed_state_lies_as_the_parameters_do(name: str) -> None:
    model = MESHES["fsdp"](half())
    built = optimizer(name, model, optim_args=PACKED)
    one_step(model, built, 0)
    seen = 0
    placed = dict(model.named_parameters())
    for key, held in get_optimizer_state_dict(model, built)["state"].items():
        parameter = placed[key]
        for word, value in held.items():
            if isinstance(value, Tensor) and value.dim() and ":" in word:
                assert isinstance(value, DTensor), word
                assert value.placements == parameter.placements, word
                assert value.shape[0] == parameter.shape[0], word
                assert value.to_local().shape[0] == parameter.to_local().shape[0], word
                seen += word.endswith(":scale")
    assert seen


def goes_on(name: str, *, full: bool) -> None:
    """From torch's own state dict, whole or sharded, in another object."""
    model = MESHES["fsdp"](half())
    built = optimizer(name, model, optim_args=PACKED)
    for step in range(2):
        one_step(model, built, step)
    options = StateDictOptions(full_state_dict=full, cpu_offload=full, broadcast_from_rank0=full)
    state = copy.deepcopy(get_optimizer_state_dict(model, built, options=options))
    other = MESHES["fsdp"](half())
    with torch.no_grad():
        for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs)
    resumed = optimizer(name, other, optim_args=PACKED)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*held in another way.*")
        set_optimizer_state_dict(other, resumed, state, options=options)
    assert_same(wide(model, built), wide(other, resumed))
    for step in range(2, STEPS):
        one_step(model, built, step)
        one_step(other, resumed, step)
        assert_same(wide(model, built), wide(other, resumed))


def loads_into_what_has_not_stepped(args: str) -> None:
    model, other = MESHES["fsdp"](half()), MESHES["fsdp"](half())
    built = optimizer("adamw_torch", model, optim_args=args)
    for step in range(2):
        one_step(model, built, step)
    with torch.no_grad():
        for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs)
    resumed = optimizer("adamw_torch", other, optim_args=args)
    resumed.load_state_dict(copy.deepcopy(built.state_dict()))
    for step in range(2, STEPS):
        one_step(model, built, step)
        one_step(other, resumed, step)
        assert_same(wide(model, built), wide(other, resumed))


def moves_to_other_ways(before: str, after: str) -> None:
    model = MESHES["fsdp"](half())
    built = optimizer("adamw_torch", model, optim_args=before)
    for step in range(2):
        one_step(model, built, step)
    moved = optimizer("adamw_torch", model, optim_args=after)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        moved.load_state_dict(built.state_dict())
    assert len([each for each in said if "held in another way" in str(each.message)]) == 1
    for key, value in wide(model, built).items():
        assert torch.allclose(wide(model, moved)[key], value, rtol=2.0**-8)
    one_step(model, moved, 2)


def state_is_planned_to_the_byte(name: str) -> None:
    model = MESHES["fsdp"](half())
    built = optimizer(name, model, optim_args=PACKED)
    one_step(model, built, 0)
    held = [each for held in built.state.values() for each in held.values() if isinstance(each, Tensor)]
    mine = sum(map(local_bytes, held))
    size, rank = dist.get_world_size(), dist.get_rank()
    dist.barrier()
    dist.destroy_process_group()
    found = anyoptim.plan(name, half(), {"learning_rate": 0.01, "optim_args": PACKED, "fsdp": "full_shard"})
    planned = found.footprint(size, "fsdp2").state
    assert planned is not None and abs(planned - mine) <= (0 if rank == 0 else 200)


TWO: Cases = {
    **{
        f"{name} on fsdp, {args}": partial(equal_to_one, name, args, "fsdp")
        for name in ("adamw_torch", "muon")
        for args in WAYS
    },
    **{f"{name} on fsdp": partial(equal_to_one, name, PACKED, "fsdp") for name in NAMES[2:]},
    **{
        f"compiled: {name}": partial(equal_to_one, name, f"{PACKED},compiled_step=true", "fsdp", 64, 96)
        for name in ("adamw_torch", "timm/adopt")
    },
    "muon on tp": partial(near_one, "muon", PACKED, "tp"),
    "turned": turned_and_back,
    **{
        f"{name} on ddp, {args}": partial(replicas_equal_one, name, args)
        for name in ("adamw_torch", "muon")
        for args in (PACKED, "master_weights=stochastic")
    },
    "owned on ddp": partial(replicas_equal_one, "muon", f"{PACKED},owned=true"),
    **{
        f"one row: {name}": partial(equal_to_one, name, PACKED, "fsdp", 3, 1)
        for name in ("adamw_torch", "muon", "lamb")
    },
    **{
        f"lies: {name}": partial(packed_state_lies_as_the_parameters_do, name)
        for name in ("adamw_torch", "muon", "lamb")
    },
    **{
        f"goes on: {name}, {full}": partial(goes_on, name, full=full)
        for name in ("adamw_torch", "muon")
        for full in (True, False)
    },
    **{f"loads: {args}": partial(loads_into_what_has_not_stepped, args) for args in ("", *WAYS)},
    "moves: packed": partial(moves_to_other_ways, "", PACKED),
    "moves: plain": partial(moves_to_other_ways, PACKED, ""),
    "moves: 32": partial(moves_to_other_ways, PACKED, "master_weights=32bit,state_dtype=bf16"),
    "bytes": partial(state_is_planned_to_the_byte, "adamw_torch"),
}
FOUR: Cases = {
    **{
        f"empty shards: {name}": partial(equal_to_one, name, PACKED, "fsdp", 3, 6)
        for name in ("adamw_torch", "muon", "lamb")
    },
    "empty shards lie": partial(packed_state_lies_as_the_parameters_do, "adamw_torch"),
    "muon on fsdp_tp": partial(near_one, "muon", PACKED, "fsdp_tp"),
}


@pytest.mark.parametrize("case", TWO)
def test_two_ranks(case: str, folder: Path) -> None:
    assert found(TWO, 2, folder / "stored-on-two.json")[case] == [""] * 2


@pytest.mark.parametrize("case", FOUR)
def test_four_ranks(case: str, folder: Path) -> None:
    assert found(FOUR, 4, folder / "stored-on-four.json")[case] == [""] * 4
