"""What owners are sent and hold: layouts, bytes and memory, on real ranks."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from meshes import MESHES, batch, net, one_step, optimizer
from ranks import Cases, found
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import anyoptim
from anyoptim.engines.exchange import Collection
from anyoptim.engines.layout import layout_of, put, take
from anyoptim.memory.state import measured_state_bytes
from anyoptim.memory.trying import ATTEMPTS

OWNED = ["lamb", "came", "shampoo", "novograd", "normuon", "galore_adamw", "muon", "normuon+lion"]


def lies_as_torch_says() -> None:
    """Every process knows what each one holds, of any placements, as ``distribute_tensor`` splits."""
    size = dist.get_world_size()
    flat = init_device_mesh("cpu", (size,))
    square = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("a", "b"))
    placed: list[tuple[Any, list[Any]]] = [(flat, [Shard(0)]), (flat, [Shard(1)]), (flat, [Replicate()])]
    placed += [(square, [Shard(0), Shard(0)]), (square, [Replicate(), Shard(0)]), (square, [Shard(1), Shard(0)])]
    for shape in ((7, 5), (1, 3), (8, 8), (5,), (3, 4, 2)):
        whole = torch.arange(math.prod(shape)).view(shape)
        for mesh, placements in placed:
            if any(getattr(each, "dim", 0) >= len(shape) for each in placements):
                continue
            tensor = distribute_tensor(whole, mesh, placements)
            with ATTEMPTS[-1].ways[-1].context():  # a plan that asks first, and is answered with ones, spoils nothing
                tried = layout_of(tensor)
            layout = layout_of(tensor)
            assert tried == layout
            parts: list[Any] = [None] * size
            dist.all_gather_object(parts, tensor.to_local())
            for rank, part in enumerate(parts):
                assert torch.equal(take(whole, layout.regions[rank]), part)
                assert tuple(part.shape) == layout.part_shape(rank)
            for owner in range(size):
                made = torch.full_like(whole, -1)
                for rank in layout.sources(owner):
                    put(made, layout.regions[rank], parts[rank])
                assert torch.equal(made, whole)


class Sent(TorchDispatchMode):
    """The bytes that this rank sends to others."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.c10d.alltoall_base_.default:
            _, outgoing, _, _, splits, *_ = args
            own = dist.get_rank()
            counts = splits or [outgoing.numel() // dist.get_world_size()] * dist.get_world_size()
            self.bytes += outgoing.element_size() * sum(count for rank, count in enumerate(counts) if rank != own)
        elif "c10d" in str(func):
            self.bytes += sum(each.nbytes for each in tree_leaves(args) if isinstance(each, Tensor))
        return func(*args, **(kwargs or {}))


def muon_sends_each_matrix_twice() -> None:
    """A gradient goes to its owner, and a direction in 16 bits comes back, whatever the number of ranks."""
    model = MESHES["fsdp"](net(64, 128, dtype=torch.float32))
    built = optimizer("muon+sgd", model)
    for step in range(2):
        one_step(model, built, step)
    x = batch(2, 64).float()
    model(x).square().mean().backward()
    with Sent() as sent:
        built.step()
    total: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(total, sent.bytes)
    matrices = sum(each.numel() * each.element_size() for each in model.parameters() if each.dim() == 2)
    assert 0 < sum(total) <= 2 * matrices * 1.05


def memory_is_predicted(name: str) -> None:
    """The state of the fullest rank, and what an owner holds whole at once, to the byte."""
    whole = 0
    wait = Collection.wait

    def watched(this: Any, device: torch.device) -> dict[int, Tensor]:
        nonlocal whole
        found = wait(this, device)
        whole = max(whole, sum(each.nbytes for each in found.values()))
        return found

    model = MESHES["fsdp"](net(dtype=torch.float32))
    built = optimizer(name, model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Collection, "wait", watched)
        one_step(model, built, 0)
    size = dist.get_world_size()
    told: list[Any] = [None] * size
    dist.all_gather_object(told, (measured_state_bytes(built), whole))
    dist.barrier()
    dist.destroy_process_group()  # plans over ranks are made in a group of their own
    targets = {"optim_target_modules": ["up", "down"]} if anyoptim.optimizer_info(name).traits.names_targets else {}
    args = {"fsdp": "full_shard", "learning_rate": 0.01, "weight_decay": 0.0, **targets}
    rank = {"optim_args": "rank=2"} if "galore" in name else {}
    predicted = anyoptim.plan(name, net(dtype=torch.float32), {**args, **rank}).footprint(size)
    assert predicted.state == max(state for state, _ in told)
    assert predicted.exchange == max(held for _, held in told)


TWO: Cases = {"bytes of Muon": muon_sends_each_matrix_twice}
FOUR: Cases = {
    "layouts": lies_as_torch_says,
    "bytes of Muon": muon_sends_each_matrix_twice,
    **{f"memory: {name}": partial(memory_is_predicted, name) for name in OWNED},
}


@pytest.mark.parametrize("case", TWO)
def test_two_ranks(case: str, folder: Path) -> None:
    assert found(TWO, 2, folder / "bytes-on-two.json")[case] == [""] * 2


@pytest.mark.parametrize("case", FOUR)
def test_four_ranks(case: str, folder: Path) -> None:
    assert found(FOUR, 4, folder / "bytes-on-four.json")[case] == [""] * 4
