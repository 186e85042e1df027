"""How long a step on packed weights and state takes, and what memory it needs while it lasts.

    python benchmarks/stored.py --repeats 11

The parameters of a small Llama have given gradients. Steps on packed weights (24 bits) and state (int8) are compared
with plain steps of the same optimizer on weights in fp32, and with torch's AdamW. All are interleaved in one process;
medians are printed. The peak is of what the allocator hands out in one step, above what was there before.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from dataclasses import dataclass
from typing import Annotated, Any

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

import anyoptim

CONFIG = LlamaConfig(
    vocab_size=8000, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8
)
PACKED = "master_weights=24bit,state_dtype=int8"
BASELINE = "adamw_torch"


@dataclass(frozen=True)
class Candidate:
    """One optimizer to measure.

    Args:
        name: as anyoptim knows it.
        text: its optim_args.
        plain: further ones of the plain steps.
        elementwise: its plain step in bf16 needs no products of matrices, which take minutes on some CPUs.
    """

    name: str
    text: str = ""
    plain: str = ""
    elementwise: bool = True

    @property
    def ways(self) -> dict[str, tuple[torch.dtype, str]]:
        """The dtype of weights, and further optim_args, by the name of the way."""
        found = {"fp32": (torch.float32, self.plain), "packed": (torch.bfloat16, PACKED)}
        if self.elementwise:
            found["bf16"] = (torch.bfloat16, self.plain)
        found["compiled"] = (torch.bfloat16, f"{PACKED},compiled_step=true")
        return found


CANDIDATES = (
    Candidate(BASELINE, plain="foreach=true"),
    Candidate("lion"),
    Candidate("sgd", "momentum=0.9"),
    Candidate("adopt"),
    Candidate("pytorch_optimizer/adan"),
    Candidate("apollo_adamw", "rank=128", elementwise=False),
    Candidate("muon", elementwise=False),
)


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
    repeats: Annotated[int, typer.Option(min=1)] = 11,
    only: Annotated[str, typer.Option(help="Names to measure, with a comma between; the baseline always is.")] = "",
) -> None:
    """Print the table."""
    hardware = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores"
    chosen = [each for each in CANDIDATES if not only or each.name in (BASELINE, *only.split(","))]
    optimizers: dict[tuple[str, str], Any] = {}
    for each in chosen:
        for way, (dtype, text) in each.ways.items():
            optimizers[each.name, way] = stepped(each, dtype, text, device)
    peaks = {key: peak(optimizer, device) for key, optimizer in optimizers.items()}
    medians = measured(optimizers, device, repeats)
    millions = sum(p.numel() for g in optimizers[BASELINE, "fp32"].param_groups for p in g["params"]) / 1e6
    print(f"{hardware}, torch {torch.__version__}, Python {platform.python_version()}, medians of {repeats}")
    print(f"{millions:.1f}M parameters; packed: {PACKED}")
    Console(width=140).print(table(chosen, medians, peaks))


def stepped(each: Candidate, dtype: torch.dtype, text: str, device: str) -> torch.optim.Optimizer:
    """Build an optimizer on a Llama of its own with given gradients, and let it step: its state and code are made."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).to(device, dtype)
    targets = ["attn", "mlp"] if anyoptim.optimizer_info(each.name).traits.names_targets else None
    text = ",".join(filter(None, (each.text, text)))
    optimizer = anyoptim.get_optimizer(
        each.name, model, lr=1e-4, weight_decay=0.01, optim_args=text, optim_target_modules=targets
    )
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    for _ in range(2):
        optimizer.step()
    return optimizer


def measured(optimizers: dict[tuple[str, str], Any], device: str, repeats: int) -> dict[tuple[str, str], float]:
    """Return median seconds of a step of each, all taken in turn ``repeats`` times after one round to warm up."""
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in optimizers}
    for _ in range(repeats + 1):
        for key, optimizer in optimizers.items():
            synchronize(device)
            began = time.perf_counter()
            optimizer.step()
            synchronize(device)
            seconds[key].append(time.perf_counter() - began)
    return {key: statistics.median(taken[1:]) for key, taken in seconds.items()}


def peak(optimizer: torch.optim.Optimizer, device: str) -> int:
    """Return the bytes that a step holds at most, above what was allocated before it."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        optimizer.step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        optimizer.step()  # what was allocated before the recording is unknown to it when it is given back
        between = time.time_ns()
        optimizer.step()
    # every request to the allocator, compiled code's too, which no dispatch mode sees
    results: Any = recorded.profiler
    events = [each for each in results.kineto_results.events() if each.name() == "[memory]"]
    held = most = 0
    for each in sorted(events, key=lambda event: event.start_ns()):
        if each.start_ns() > between:
            held += each.nbytes()
            most = max(most, held)
    return most


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def table(chosen: list[Candidate], medians: dict[tuple[str, str], float], peaks: dict[tuple[str, str], int]) -> Table:
    """Return a row for each optimizer and way."""
    made = Table(title="one step")
    for column in ("optimizer", "weights", "ms", "/ the same in fp32", "/ AdamW foreach in fp32", "peak MiB"):
        made.add_column(column, justify="left" if column in ("optimizer", "weights") else "right")
    for each in chosen:
        for way in each.ways:
            taken = medians[each.name, way]
            made.add_row(
                f"{each.name} {each.text}".strip(),
                way,
                f"{taken * 1e3:.1f}",
                f"{taken / medians[each.name, 'fp32']:.2f}",
                f"{taken / medians[BASELINE, 'fp32']:.2f}",
                f"{peaks[each.name, way] / 2**20:.1f}",
            )
    return made


if __name__ == "__main__":
    typer.run(main)
