"""Which package's class a bare name stands for: the step time of all that offer the algorithm, in one process.

    make benchmark            # or: python benchmarks/bare_names.py --repeats 11

Each row is one algorithm; its classes step in turns on the weights of a small Llama with given gradients, and the
medians are divided by the fastest one's. A bare name takes the fastest among those within a tenth of it that is a core
dependency, or else by the authors of the algorithm or best kept; what is chosen stands in the catalogue.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
import warnings
from typing import Annotated

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM

import anyoptim

CONFIG = LlamaConfig(
    vocab_size=4000, hidden_size=256, intermediate_size=688, num_hidden_layers=6, num_attention_heads=4
)
OFFERED = {
    "adabelief": ("timm", "pytorch_optimizer"),
    "adahessian": ("timm", "pytorch_optimizer"),
    "adamp": ("timm", "pytorch_optimizer"),
    "adan": ("optimi", "timm", "pytorch_optimizer"),
    "adopt": ("timm", "pytorch_optimizer", "heavyball"),
    "came": ("came_pytorch", "pytorch_optimizer"),
    "kron": ("timm", "pytorch_optimizer"),
    "lamb": ("timm", "pytorch_optimizer"),
    "laprop": ("timm", "pytorch_optimizer", "heavyball"),
    "lars": ("timm", "pytorch_optimizer"),
    "lion": ("optimi", "lion_pytorch", "timm", "pytorch_optimizer"),
    "madgrad": ("timm", "pytorch_optimizer"),
    "mars": ("timm", "pytorch_optimizer"),
    "novograd": ("timm", "pytorch_optimizer"),
    "prodigy": ("prodigyopt", "pytorch_optimizer"),
    "ranger": ("optimi", "pytorch_optimizer"),
    "scion": ("pytorch_optimizer", "heavyball"),
    "sgdw": ("timm", "pytorch_optimizer"),
    "soap": ("pytorch_optimizer", "heavyball"),
}


def main(repeats: Annotated[int, typer.Option(min=1)] = 11) -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    print(f"{os.cpu_count()} CPU cores, torch {torch.__version__}, Python {platform.python_version()},"
          f" medians of {repeats}, in milliseconds and by the fastest\n")  # fmt: skip
    print("| name | stands for | step times |\n| --- | --- | --- |")
    for algorithm, packages in OFFERED.items():
        times = measure([f"{package}/{algorithm}" for package in packages], repeats)
        fastest = min(times.values())
        cells = ", ".join(f"`{name}` {1e3 * each:.1f} ({each / fastest:.2f})" for name, each in times.items())
        stands_for = next(
            (each for each in anyoptim.optimizer_info(algorithm).aliases if each in times), "-"
        ) if algorithm in anyoptim.list_optimizers(algorithm) else "-"  # fmt: skip
        print(f"| `{algorithm}` | `{stands_for}` | {cells} |", flush=True)


def measure(names: list[str], repeats: int) -> dict[str, float]:
    """Return the median seconds of a step of each, interleaved."""
    steps = {}
    for name in names:
        torch.manual_seed(0)
        model = LlamaForCausalLM(CONFIG)
        model.set_attn_implementation("eager")
        optimizer = anyoptim.get_optimizer(name, model, lr=1e-4)
        second_order = anyoptim.optimizer_info(name).traits.second_order
        steps[name] = (model, optimizer, second_order)
    times: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats + 2):
        for name, (model, optimizer, second_order) in steps.items():
            give_gradients(model, second_order=second_order)
            started = time.perf_counter()
            optimizer.step()
            if repeat >= 2:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(each) for name, each in times.items()}


def give_gradients(model: LlamaForCausalLM, *, second_order: bool) -> None:
    """Give every parameter a gradient; one that can be differentiated where the step does."""
    model.zero_grad()
    if second_order:
        batch = torch.randint(4000, (2, 16))
        model(input_ids=batch, labels=batch).loss.backward(create_graph=True)
        return
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


if __name__ == "__main__":
    typer.run(main)
