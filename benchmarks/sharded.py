"""How long a step takes on several ranks, what it sends, and how much each rank computes.

    python benchmarks/sharded.py --repeats 11

Muon in four ways, in turn in one run, on the same sharded matrices: ours with owners; as it was before, each rank
gathering each momentum in 16 bits and orthogonalizing all of them; torch.optim.Muon's arithmetic on gathered gradients;
and a transcription of dion's scheme, whose momentum stays sharded while directions go to owners and back. Then APOLLO's
random projections and AdaLomo, on shards as they are, and with owners.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from anyoptim.engines.adalomo import AdaLomo
from anyoptim.engines.apollo import APOLLOAdamW
from anyoptim.engines.exchange import Collection, Parcel, Return
from anyoptim.engines.layout import layout_of
from anyoptim.engines.muon import Muon
from anyoptim.engines.orthogonal import JORDAN, orthogonalized
from anyoptim.engines.owned import Owned
from anyoptim.engines.ownership import owners

SHAPES = [(128, 128)] * 16 + [(64, 256)] * 16
LR, DECAY = 1e-3, 0.95
Step = Callable[[], None]


def main(
    repeats: Annotated[int, typer.Option(min=1)] = 11,
    ranks: Annotated[list[int] | None, typer.Option(help="Numbers of processes.")] = None,
) -> None:
    """Print the table."""
    table = Table(title=f"one step on {len(SHAPES)} matrices", title_justify="left")
    for column in ("ranks", "optimizer", "way"):
        table.add_column(column)
    for column in ("ms", "/ the first", "sent / bytes of the matrices", "FLOPs of a rank / of one process"):
        table.add_column(column, justify="right")
    alone: dict[tuple[str, str], float] = {}
    for size in ranks or [1, 2, 4]:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(_work, (size, folder, repeats), nprocs=size)
            found = torch.load(Path(folder, "rows"))
        for optimizer, ways in WAYS.items():
            first = found[optimizer, next(iter(ways))][0]
            for way in ways:
                ms, sent, flops = found[optimizer, way]
                one = alone.setdefault((optimizer, way), flops)
                part = f"{flops / one:.2f}" if one else "-"  # products are counted, of which it may have none
                table.add_row(str(size), optimizer, way, f"{ms:.1f}", f"{ms / first:.2f}", f"{sent:.5f}", part)
    Console().print(table)


def _work(rank: int, size: int, folder: str, repeats: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size))
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    steps = {(optimizer, way): make() for optimizer, ways in WAYS.items() for way, make in ways.items()}
    times: dict[tuple[str, str], list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            dist.barrier()
            start = time.perf_counter()
            step()
            dist.barrier()
            times[name].append(1000 * (time.perf_counter() - start))
    rows = {}
    matrices = sum(4 * rows_ * columns for rows_, columns in SHAPES)
    for name, step in steps.items():
        with Sent() as sent, FlopCounterMode(display=False) as flops:
            step()
        told = torch.tensor([sent.bytes, flops.get_total_flops()], dtype=torch.float64)
        both = [torch.empty_like(told) for _ in range(size)]
        dist.all_gather(both, told)
        rows[name] = (
            statistics.median(times[name][1:]),
            sum(float(each[0]) for each in both) / matrices,
            max(float(each[1]) for each in both),
        )
    if rank == 0:
        torch.save(rows, Path(folder, "rows"))
    dist.barrier()
    dist.destroy_process_group()


class Sent(TorchDispatchMode):
    """The bytes that this rank sends to others; a gathered part goes to each of them, a sum around a ring twice."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        others, own = dist.get_world_size() - 1, dist.get_rank()
        if func is torch.ops.c10d.alltoall_base_.default:
            counts = args[4] or [args[1].numel() // (others + 1)] * (others + 1)
            self.bytes += args[1].element_size() * sum(count for rank, count in enumerate(counts) if rank != own)
        elif "all_gather" in str(func):
            self.bytes += others * next(each for each in args if isinstance(each, Tensor)).nbytes
        elif "all_reduce" in str(func):
            self.bytes += 2 * others * next(each for each in args if isinstance(each, Tensor)).nbytes // (others + 1)
        return func(*args, **(kwargs or {}))


# ---------------------------------------------------------------- the ways


def _parameters() -> list[nn.Parameter]:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    made = []
    for number, shape in enumerate(SHAPES):
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(number))
        parameter = nn.Parameter(distribute_tensor(drawn, mesh, [Shard(0)]))
        parameter.grad = distribute_tensor(drawn.flip(0), mesh, [Shard(0)])
        made.append(parameter)
    return made


def _owned() -> Step:
    return Owned(Muon(_parameters(), lr=LR)).step


def _momenta(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [torch.zeros_like(each.grad.to_local()) for each in parameters]  # type: ignore[union-attr]  # it has one


def _ahead(gradient: Tensor, momentum: Tensor) -> Tensor:
    momentum.lerp_(gradient, 1 - DECAY)
    return gradient.lerp(momentum, DECAY)


def _gathered_momenta() -> Step:
    parameters = _parameters()
    momenta = _momenta(parameters)

    def step() -> None:
        for each, momentum in zip(parameters, momenta, strict=True):
            part = _ahead(each.grad.to_local(), momentum).bfloat16()
            whole = type(each.data).from_local(part, each.device_mesh, each.placements).full_tensor()
            (direction,) = orthogonalized([whole], "newton_schulz", JORDAN, 5)
            mine = direction.chunk(dist.get_world_size())[dist.get_rank()]
            each.detach().to_local().add_(mine, alpha=-LR)

    return torch.no_grad()(step)


def _gathered_gradients() -> Step:
    parameters = _parameters()
    momenta = [torch.zeros(each.shape) for each in parameters]

    def step() -> None:
        for each, momentum in zip(parameters, momenta, strict=True):
            ahead = _ahead(each.grad.full_tensor(), momentum).bfloat16()
            (direction,) = orthogonalized([ahead], "newton_schulz", JORDAN, 5)
            mine = direction.chunk(dist.get_world_size())[dist.get_rank()]
            each.detach().to_local().add_(mine, alpha=-LR)

    return torch.no_grad()(step)


def _dion() -> Step:
    parameters = _parameters()
    momenta = _momenta(parameters)
    size = dist.get_world_size()
    owner = owners([Muon.cost(each.shape) for each in parameters], size)
    # a batch holds as many matrices of one shape as there are ranks
    batches = [
        same[start : start + size]
        for shape in dict.fromkeys(SHAPES)
        for same in [[number for number, each in enumerate(SHAPES) if each == shape]]
        for start in range(0, len(same), size)
    ]

    def step() -> None:
        for batch in batches:
            chosen = [parameters[number] for number in batch]
            parcels = [
                Parcel(layout_of(each), owner[number], torch.bfloat16)
                for number, each in zip(batch, chosen, strict=True)
            ]
            parts = [
                _ahead(each.grad.to_local(), momenta[number]).bfloat16()
                for number, each in zip(batch, chosen, strict=True)
            ]
            device = torch.device("cpu")
            wholes = Collection(dist.group.WORLD, device, parcels, parts).wait(device)
            found = dict(zip(wholes, orthogonalized(list(wholes.values()), "newton_schulz", JORDAN, 5), strict=True))
            for at, part in Return(dist.group.WORLD, device, parcels, found).wait().items():
                chosen[at].detach().to_local().add_(part, alpha=-LR)

    return torch.no_grad()(step)


def _apollo() -> Optimizer:
    return APOLLOAdamW([{"params": _parameters(), "rank": 16}], lr=LR)


def _adalomo() -> Optimizer:
    return AdaLomo(_parameters(), lr=LR)


def _with_gradients(optimizer: Optimizer) -> Step:
    """Return a step that has gradients also after one that takes them."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    gradients = [each.grad for each in parameters]

    def step() -> None:
        for each, gradient in zip(parameters, gradients, strict=True):
            each.grad = gradient
        optimizer.step()

    return step


WAYS: dict[str, dict[str, Callable[[], Step]]] = {
    "Muon": {
        "owned": _owned,
        "gathered momenta, as before": _gathered_momenta,
        "gathered gradients, torch's arithmetic": _gathered_gradients,
        "dion's scheme": _dion,
    },
    **{
        name: {
            "on shards": lambda make=make: _with_gradients(make()),
            "owned": lambda make=make: _with_gradients(Owned(make())),
        }
        for name, make in {"APOLLO": _apollo, "AdaLomo": _adalomo}.items()
    },
}

if __name__ == "__main__":
    typer.run(main)
