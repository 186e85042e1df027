"""What ``monitor=true`` costs: a whole step of training with it and without.

    python benchmarks/monitor.py --repeats 12

A step is a forward pass, a backward pass and the update of a small Llama. Of each pair of steps one is measured, the
first or the second in turn; one optimizer takes both, since two models lie differently in memory, which tells more than
a monitor. Differences are the medians of those within pairs. In a loop, and with ``logging_steps=10``, one step in ten
is measured, so a tenth of it is added. On a CPU one thread's own time is taken, which others that use the machine
disturb least.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from typing import Annotated, Any

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import anyoptim
from anyoptim.building.monitored import monitor_of

CONFIG = LlamaConfig(
    vocab_size=8000, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8
)
ROWS: dict[str, tuple[str, str, torch.dtype]] = {
    "adamw_torch": ("adamw_torch", "", torch.float32),
    "muon": ("muon", "fallback_lr=1e-4", torch.float32),
    "adamw_torch, fused_backward": ("adamw_torch", "fused_backward=true", torch.float32),
    "adamw_torch, 24bit and int8": ("adamw_torch", "master_weights=24bit,state_dtype=int8", torch.bfloat16),
}
EVERY, NEVER = 10, 10**9


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
    repeats: Annotated[int, typer.Option(min=2, help="Pairs of steps.")] = 20,
    tokens: Annotated[int, typer.Option(help="In a batch.")] = 256,
) -> None:
    """Print the table."""
    hardware = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores"
    if device == "cpu":
        torch.set_num_threads(1)
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{hardware}, {versions}, medians of {repeats} pairs, {tokens} tokens a step")
    table = Table()
    for column in ("optimizer", "a step, ms", "a measured one, ms more", "in %", "one in ten, in %"):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    for label, (name, args, dtype) in ROWS.items():
        alone, more = costs(name, args, dtype, device, repeats, tokens)
        share = 100 * more / alone
        row = (label, f"{alone * 1e3:.0f}", f"{more * 1e3:.1f}", f"{share:.2f}", f"{share / EVERY:.2f}")
        print(*row, sep=", ", flush=True)
        table.add_row(*row)
    Console(width=120).print(table)


def costs(name: str, args: str, dtype: torch.dtype, device: str, repeats: int, tokens: int) -> tuple[float, float]:
    """Return seconds of a step that is not measured, and how many more one takes that is."""
    model = LlamaForCausalLM(CONFIG).to(device, dtype)
    given = ",".join(filter(None, [args, "monitor=true"]))
    optimizer = anyoptim.get_optimizer(name, model, lr=1e-4, optim_args=given)
    batch = torch.randint(CONFIG.vocab_size, (2, tokens // 2), device=device)
    monitor = monitor_of(optimizer)
    assert monitor is not None
    alone: list[float] = []
    more: list[float] = []
    for number in range(repeats + 1):
        seconds = {}
        for every in (1, NEVER) if number % 2 else (NEVER, 1):
            monitor.every = every
            seconds[every] = step(model, optimizer, batch)
        if number:  # the first ones make state
            alone.append(seconds[NEVER])
            more.append(seconds[1] - seconds[NEVER])
    return statistics.median(alone), statistics.median(more)


def step(model: Any, optimizer: Any, batch: Tensor) -> float:
    """Take a step and return its seconds."""
    synchronize(batch.device)
    clock = time.perf_counter if batch.device.type == "cuda" else time.process_time
    began = clock()
    model(input_ids=batch, labels=batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    synchronize(batch.device)
    return clock() - began


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    typer.run(main)
