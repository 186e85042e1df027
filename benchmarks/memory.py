"""Bytes of optimizer state from 60M to 7B parameters, and the measured peak of a training step.

    make benchmark            # or: python benchmarks/memory.py

State is counted by the plan, which takes each optimizer's first step on tensors without storage. The sizes are
those of the GaLore and APOLLO papers, in bf16; rank is a quarter of the hidden size, at 7B it is 256. A GB is
1e9 bytes. The peak is measured in a process of its own for each optimizer, on Linux.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import anyoptim

SIZES = {
    "60M": (512, 1376, 8, 8, 128),
    "130M": (768, 2048, 12, 12, 192),
    "350M": (1024, 2736, 24, 16, 256),
    "1B": (2048, 5461, 24, 32, 512),
    "7B": (4096, 11008, 32, 32, 256),
}
"""Hidden and intermediate size, layers, heads; rank."""
MEASURED = ("adamw_torch", "apollo_mini", "adalomo", "lomo")
MB, GB = 1e6, 1e9


def main(
    one: Annotated[str, typer.Option(help="Measure the peak of this optimizer only, and print its MB.")] = "",
) -> None:
    """Print the tables."""
    if one:
        print(peak(one) / MB)
        return
    console = Console(width=120)
    console.print(whole_models())
    console.print(target_matrices())
    console.print(peaks())


def whole_models() -> Table:
    """State of whole models by name and size."""
    table = Table(title="optimizer state of a Llama in bf16, GB")
    table.add_column("optimizer")
    models = {size: llama(size) for size in SIZES}
    for size, model in models.items():
        table.add_column(f"{size} ({sum(each.numel() for each in model.parameters()) / 1e6:,.0f}M)", justify="right")
    for name in anyoptim.list_optimizers():
        table.add_row(name, *(gigabytes(state_bytes(name, model, SIZES[size][-1])) for size, model in models.items()))
    return table


def target_matrices() -> Table:
    """State of the 7B's attention and MLP matrices alone, as the papers count it."""
    model = llama("7B")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("attn" in name or "mlp" in name)
    matrices = [each for each in model.parameters() if each.requires_grad]
    count = sum(each.numel() for each in matrices)
    both_sides = sum(4 * sum(each.shape) for each in matrices)
    expected = {
        "adamw_torch": f"2 moments of 2 bytes: {4 * count:,} bytes",
        "apollo_adamw": "the paper (arXiv 2412.05270): 1.6 GB",
        "apollo_mini": "the paper: 0.0 GB",
        "adalomo": f"4 bytes * (m + n) of each: {both_sides:,} bytes",
        "lomo": "none",
    }
    table = Table(title=f"optimizer state of the 7B's {len(matrices)} matrices ({count / 1e6:,.0f}M) in bf16, GB")
    for column in ("optimizer", "GB", "bytes", "expected"):
        table.add_column(column, justify="right" if column in ("GB", "bytes") else "left")
    for name, source in expected.items():
        found = state_bytes(name, model, SIZES["7B"][-1])
        table.add_row(name, gigabytes(found), "-" if found is None else f"{found:,}", source)
    return table


def state_bytes(name: str, model: nn.Module, rank: int) -> int | None:
    """Return the state bytes of a plan; low-rank names get the attention and MLP matrices as targets."""
    spec = anyoptim.optimizer_info(name)
    settings: dict[str, Any] = {"optim_target_modules": ["attn", "mlp"]} if spec.traits.names_targets else {}
    if name == "apollo_adamw":
        settings["rank"] = rank
    return anyoptim.plan(name, model, lr=1e-3, **settings).state_bytes


def llama(size: str) -> nn.Module:
    hidden, intermediate, layers, heads, _ = SIZES[size]
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config).to(torch.bfloat16)


def gigabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / GB:.3f}"


def peaks() -> Table:
    """Measured peak of two training steps above what the model itself takes."""
    model = measured_model("meta")
    layer = size_of(model.model.layers[0])
    table = Table(title=f"peak above {size_of(model) / MB:,.0f} MB of fp32 weights; a layer: {layer / MB:.0f} MB")
    for column in ("optimizer", "MB above", "of the weights", "in layers"):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    for name in MEASURED:
        # each freed tensor back to the system at once, so that resident memory is what is in use
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        command = [sys.executable, __file__, "--one", name]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        above = float(answer.stdout.split()[-1]) * MB
        table.add_row(name, f"{above / MB:,.0f}", f"{above / size_of(model):.2f}", f"{above / layer:.1f}")
    return table


def peak(name: str) -> float:
    """Train two steps in this process and return the bytes at their peak, above those before them."""
    torch.set_num_threads(1)
    model = measured_model("cpu")
    targets = ["attn", "mlp"] if anyoptim.optimizer_info(name).traits.names_targets else None
    optimizer = anyoptim.get_optimizer(name, model, lr=1e-3, optim_target_modules=targets)
    tokens = torch.randint(4096, (1, 16))
    model(input_ids=tokens, labels=tokens)  # what the first forward pass allocates for good is no gradient
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    for _ in range(2):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return resident("VmHWM") - before


def measured_model(device: str) -> Any:
    config = LlamaConfig(
        vocab_size=4096, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12
    )
    with torch.device(device):
        return LlamaForCausalLM(config)


def size_of(module: nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in module.parameters())


def resident(field: str) -> float:
    """Return a line of /proc/self/status in bytes."""
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(field))
    return float(line.split()[1]) * 1024


if __name__ == "__main__":
    typer.run(main)
