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
from dataclasses import dataclass
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
from anyoptim.integrations.models import load_config, make_model

SIZES = {"60m": 128, "130m": 192, "350m": 256, "1b": 512, "7b": 256}
"""The presets of the papers' Llamas; rank of APOLLO."""
MEASURED = ("adamw_torch", "apollo_mini", "adalomo", "lomo")
MB, GB, GIB = 1e6, 1e9, 2**30


@dataclass(frozen=True)
class Published:
    """A number of a paper.

    Args:
        source: the paper and its table.
        name: the optimizer.
        size: the preset.
        rank: of its projections; ``None``: it has none.
        value: as printed.
        weights: whether the weights are part of it.
        matrices_only: whether embeddings, head and norms are left out of the state.
        unit: bytes that 1 stands for.
        follows: whether it is what the paper's own formula (APOLLO, table 1) gives for the model.
    """

    source: str
    name: str
    size: str
    rank: int | None
    value: float
    weights: bool
    matrices_only: bool
    unit: float
    follows: bool = True


def _table(
    source: str, name: str, *, ranks: dict[str, int | None], values: str, matrices_only: bool = False
) -> list[Published]:
    """Rows of the papers' tables of weights and state together, in GiB."""
    return [
        Published(source, name, size, rank, float(value), True, matrices_only, GIB)
        for (size, rank), value in zip(ranks.items(), values.split(), strict=True)
    ]


_GALORE, _APOLLO = "GaLore (arXiv 2403.03507), table 2", "APOLLO (arXiv 2412.05270), table 2"
_NONE: dict[str, int | None] = {"60m": None, "130m": None, "350m": None, "1b": None}
PUBLISHED = [
    *_table(_GALORE, "adamw_torch", ranks=_NONE, values="0.36 0.76 2.06 7.80"),
    *_table(
        _GALORE, "galore_adamw", ranks={"60m": 128, "130m": 256, "350m": 256, "1b": 512}, values="0.24 0.52 1.22 4.38"
    ),
    *_table(
        _APOLLO, "apollo_adamw", ranks={"60m": 128, "130m": 192, "350m": 256, "1b": 512}, values="0.24 0.52 1.22 4.38"
    ),
    Published(_APOLLO, "apollo_adamw", "60m", 64, 0.18, True, False, GIB, follows=False),
    Published(_APOLLO, "apollo_adamw", "130m", 96, 0.39, True, False, GIB, follows=False),
    Published(_APOLLO, "apollo_adamw", "350m", 128, 0.95, True, False, GIB, follows=False),
    Published(_APOLLO, "apollo_adamw", "1b", 256, 3.49, True, False, GIB),
    *_table(_APOLLO, "apollo_mini", ranks=_NONE, values="0.12 0.25 0.69 2.60", matrices_only=True),
    Published("APOLLO, table 3", "adamw_8bit", "7b", None, 13, False, True, GB),
    Published("APOLLO, table 3", "galore_adamw_8bit", "7b", 1024, 4.9, False, True, GB),
    Published("APOLLO, table 3", "apollo_adamw", "7b", 256, 1.6, False, True, GB),
    Published("APOLLO, table 3", "apollo_mini", "7b", None, 0.0, False, True, GB),
    Published("APOLLO, table 4", "adamw_torch", "350m", None, 1.37, False, False, GIB),
    Published("APOLLO, table 4", "apollo_adamw", "350m", 256, 0.34, False, True, GIB, follows=False),
    Published("APOLLO, table 4", "apollo_mini", "350m", None, 0.0, False, True, GIB),
]


def predicted(row: Published) -> int:
    """Return the bytes that the plan finds for what a paper gives a number for."""
    model = llama(row.size)
    weights = size_of(model) if row.weights else 0
    if row.matrices_only:
        only_matrices(model)
    state = state_bytes(row.name, model, row.rank)
    assert state is not None
    return weights + state


def main(
    one: Annotated[str, typer.Option(help="Measure the peak of this optimizer only, and print its MB.")] = "",
) -> None:
    """Print the tables."""
    if one:
        print(peak(one) / MB)
        return
    console = Console(width=120)
    console.print(published())
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
    for name in anyoptim.list_optimizers(installed=True):
        if "/" in name or anyoptim.optimizer_info(name).is_wrapper:
            continue
        try:
            found = [gigabytes(state_bytes(name, model, SIZES[size])) for size, model in models.items()]
        except anyoptim.UnsupportedError:
            continue  # needs another device
        table.add_row(name, *found)
    return table


def published() -> Table:
    """The papers' numbers beside the plan's."""
    table = Table(
        title="published and predicted; G as the papers count it: GiB in tables 2 and 4, 1e9 bytes in table 3"
    )
    for column in ("source", "optimizer", "size", "rank", "published", "predicted", "difference"):
        table.add_column(column, justify="right" if column in ("published", "predicted", "difference") else "left")
    for row in PUBLISHED:
        found = predicted(row) / row.unit
        difference = f"{found / row.value - 1:+.0%}" if row.value else "-"
        rank = "-" if row.rank is None else str(row.rank)
        table.add_row(row.source, row.name, row.size, rank, f"{row.value}", f"{found:.2f}", difference)
    return table


def only_matrices(model: nn.Module) -> None:
    """Train the attention and MLP matrices alone."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("attn" in name or "mlp" in name)


def target_matrices() -> Table:
    """State of the 7B's attention and MLP matrices alone, as the papers count it."""
    model = llama("7b")
    only_matrices(model)
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
        found = state_bytes(name, model, SIZES["7b"])
        table.add_row(name, gigabytes(found), "-" if found is None else f"{found:,}", source)
    return table


def state_bytes(name: str, model: nn.Module, rank: int | None) -> int | None:
    """Return the state bytes of a plan; low-rank names get the attention and MLP matrices as targets."""
    spec = anyoptim.optimizer_info(name)
    settings: dict[str, Any] = {"optim_target_modules": ["attn", "mlp"]} if spec.traits.names_targets else {}
    if rank is not None and any(each.name == "rank" for each in spec.hyperparameters) and name != "apollo_mini":
        settings["rank"] = rank
    return anyoptim.plan(name, model, lr=1e-3, **settings).state_bytes


def llama(size: str) -> nn.Module:
    return make_model(load_config(f"llama-{size}"), device="meta", dtype=torch.bfloat16)


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
