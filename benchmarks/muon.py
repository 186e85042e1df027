"""How long a Muon step takes, beside torch.optim.Muon, and how orthogonal its matrices are.

    python benchmarks/muon.py --repeats 11 --device cuda

The first table steps on the matrices of a Llama of 30M parameters, on many small matrices and on matrices as long as
those of an MLP, with given gradients. The second orthogonalizes one matrix by each method; its matrices are drawn,
or their singular values fall by four orders of magnitude. All that share a table are interleaved in one process.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any, get_args

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from anyoptim.engines.adamuon import AdaMuon
from anyoptim.engines.muon import Muon
from anyoptim.engines.normuon import NorMuon
from anyoptim.engines.orthogonal import JORDAN, Method, orthogonalized

METHODS: tuple[Method, ...] = get_args(Method)
LLAMA = LlamaConfig(
    vocab_size=52000, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8
)
BASE = "torch.optim.Muon"
STEPS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    BASE: lambda params: torch.optim.Muon(params, lr=1e-3),
    **{
        f"muon {method}": lambda params, method=method: Muon(params, lr=1e-3, orthogonalize=method)
        for method in METHODS
    },
    "normuon": lambda params: NorMuon(params, lr=1e-3),
    "adamuon": lambda params: AdaMuon(params, lr=1e-3),
}
SHAPES = ((256, 256), (256, 1024))


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
    repeats: Annotated[int, typer.Option(min=1)] = 11,
    threads: Annotated[int, typer.Option(min=1)] = torch.get_num_threads(),
    matrices: Annotated[list[str] | None, typer.Option(help="Sets to step on: llama, small, mlp.")] = None,
    optimizers: Annotated[list[str] | None, typer.Option(help="Beside torch.optim.Muon; else all.")] = None,
    quality: bool = True,
) -> None:
    """Print both tables."""
    torch.set_num_threads(threads)
    hardware = torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability()
    print(
        f"{hardware}, {threads} threads, torch {torch.__version__}, Python {platform.python_version()},"
        f" medians of {repeats}"
    )
    console = Console(width=120)
    for label in matrices or SETS:
        console.print(of_steps(label, optimizers or list(STEPS), device, repeats))
    if quality:
        console.print(of_methods(device, repeats))


def of_steps(label: str, names: list[str], device: str, repeats: int) -> Table:
    """Measure one step of each optimizer on a set of matrices."""
    shapes = SETS[label]()
    table = Table(title=f"one step, {label}: {len(shapes)} matrices")
    for column in ("optimizer", "ms", "/ torch.optim.Muon"):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    chosen = {name: STEPS[name] for name in (BASE, *names)}
    taken = medians({name: stepped(make, shapes, device) for name, make in chosen.items()}, device, repeats)
    for name, seconds in taken.items():
        table.add_row(name, f"{seconds * 1e3:.1f}", f"{seconds / taken[BASE]:.3f}")
    return table


def llama() -> list[torch.Size]:
    """Return the shapes of the hidden matrices of a Llama of 30M parameters."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LLAMA)
    return [each.shape for each in model.model.layers.parameters() if each.dim() == 2]


SETS: dict[str, Callable[[], list[torch.Size]]] = {
    "llama": llama,
    "small": lambda: [torch.Size((64, 64))] * 256,
    "mlp": lambda: [torch.Size((768, 3072))],
}


def stepped(make: Callable[[list[nn.Parameter]], Any], shapes: list[torch.Size], device: str) -> Callable[[], Any]:
    """Return the step of an optimizer on parameters with given gradients; its state is there."""
    params = [nn.Parameter(torch.randn(shape, device=device) * 0.02) for shape in shapes]
    for each in params:
        each.grad = torch.randn_like(each) * 1e-3
    optimizer = make(params)
    optimizer.step()
    step: Callable[[], Any] = optimizer.step
    return step


def of_methods(device: str, repeats: int) -> Table:
    """Orthogonalize matrices by each method."""
    table = Table(title="singular values after 5 iterations, and the time for one matrix")
    for column in ("matrix", "method", "least", "median", "largest", "largest / least", "ms"):
        table.add_column(column, justify="left" if column in ("matrix", "method") else "right")
    for shape in SHAPES:
        for label, drawn in (("drawn", torch.randn(shape)), ("falling", falling(shape))):
            matrix = drawn.bfloat16().to(device)
            calls = {method: one(matrix, method) for method in METHODS}
            taken = medians(calls, device, repeats)
            for method, call in calls.items():
                values = torch.linalg.svdvals(call().double())
                low, middle, high = float(values.min()), float(values.median()), float(values.max())
                table.add_row(
                    f"{shape[0]}x{shape[1]}, {label}",
                    method,
                    *(f"{each:.3f}" for each in (low, middle, high)),
                    f"{high / low:.1f}",
                    f"{taken[method] * 1e3:.1f}",
                )
    return table


def one(matrix: Tensor, method: Method) -> Callable[[], Tensor]:
    return lambda: orthogonalized([matrix.clone()], method, JORDAN, 5)[0]


def falling(shape: tuple[int, int]) -> Tensor:
    """Return a matrix whose singular values fall from 1 to 1e-4."""
    u, s, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    return u @ torch.diag(torch.logspace(0, -4, len(s))) @ vh


def medians(calls: dict[Any, Callable[[], Any]], device: str, repeats: int) -> dict[Any, float]:
    """Return median seconds of each call, all taken in turn ``repeats`` times after one round to warm up."""
    seconds: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(repeats + 1):
        for key, call in calls.items():
            synchronize(device)
            began = time.perf_counter()
            call()
            synchronize(device)
            seconds[key].append(time.perf_counter() - began)
    return {key: statistics.median(taken[1:]) for key, taken in seconds.items()}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    torch.manual_seed(0)
    typer.run(main)
