"""How long a step takes: our engines, the packages they replace, and torch's AdamW.

    make benchmark            # or: python benchmarks/step.py --repeats 11 --device cuda

The first table steps on a small Llama with given gradients; the second takes a backward pass and the update
over many parameters, for the optimizers that update inside of it. All that share a table are interleaved
in one process; medians are printed. The fraction of the floor is the time to move parameters, gradients
and state once (parameters and state are also written) at the measured copy bandwidth, over the time taken.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any
from unittest import mock

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import anyoptim
from anyoptim.memory.state import measured_state_bytes

CONFIG = LlamaConfig(
    vocab_size=8000, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8
)
FOREACH, FUSED = "AdamW, foreach", "AdamW, fused"
STEPS: dict[str, tuple[str, str]] = {
    FOREACH: ("adamw_torch", "foreach=true"),
    FUSED: ("adamw_torch", "fused=true"),
    "grokadamw": ("grokadamw", ""),
    "apollo_mini": ("apollo_mini", ""),
    "apollo_adamw, rank 128": ("apollo_adamw", "rank=128"),
    "apollo_adamw, rank 128, keep_projection": ("apollo_adamw", "rank=128,keep_projection=true"),
}
BACKWARD = ("lomo", "adalomo")
Prepared = Callable[[], Callable[[], object]]
"""Makes ready what is not timed, and returns what is."""
COUNTS = {100: (540, 540), 512: (64, 64), 2048: (64, 64), 8192: (64, 64)}


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
    repeats: Annotated[int, typer.Option(min=1)] = 11,
    weight_decay: Annotated[float, typer.Option(help="Of every optimizer in the first table.")] = 0.0,
    upstream_up_to: Annotated[int, typer.Option(help="lomo-optim takes minutes beyond this many tensors.")] = 2048,
) -> None:
    """Print both tables."""
    hardware = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores"
    print(f"{hardware}, torch {torch.__version__}, Python {platform.python_version()}, medians of {repeats}")
    console = Console(width=120)
    console.print(steps(device, repeats, weight_decay))
    console.print(backward_and_update(device, repeats, upstream_up_to))


def steps(device: str, repeats: int, weight_decay: float) -> Table:
    """Measure one step on a Llama, ours and upstream's."""
    actions: dict[tuple[str, str], Prepared] = {}
    floors: dict[str, float] = {}
    bandwidth = copy_bandwidth(device)
    for label, (name, text) in STEPS.items():
        for implementation in anyoptim.optimizer_info(name).implementations:
            if implementation.name == "upstream" and "keep_projection" in text:
                continue
            chosen = ",".join(filter(None, (text, f"implementation={implementation.name}")))
            optimizer = stepped_once(name, chosen, device, weight_decay)
            actions[label, implementation.name] = partial(getattr, optimizer, "step")
            if implementation.name == "native":
                floors[label] = bytes_to_move(optimizer) / bandwidth
    medians = measured(actions, device, repeats)
    millions = sum(each.numel() for group in optimizer.param_groups for each in group["params"]) / 1e6
    table = Table(title=f"one step, {millions:.1f}M parameters, weight decay {weight_decay:g}")
    for column in ("optimizer", "ms", "upstream ms", "/ upstream", "/ foreach", "/ fused", "of the floor"):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    adamw = {label: medians[label, "upstream"] for label in (FOREACH, FUSED)}
    for label in STEPS:
        upstream = medians.get((label, "upstream")) or medians[label.removesuffix(", keep_projection"), "upstream"]
        ours = medians.get((label, "native"), upstream)
        table.add_row(
            label,
            f"{ours * 1e3:.1f}",
            f"{upstream * 1e3:.1f}" if label in floors else "",
            f"{ours / upstream:.2f}" if label in floors else "",
            f"{ours / adamw[FOREACH]:.2f}",
            f"{ours / adamw[FUSED]:.2f}",
            f"{floors[label] / ours:.2f}" if label in floors else "",
        )
    return table


def stepped_once(name: str, optim_args: str, device: str, weight_decay: float) -> torch.optim.Optimizer:
    """Build an optimizer on a Llama of its own with given gradients; its state exists after the first step."""
    model = LlamaForCausalLM(CONFIG).to(device)
    targets = ["attn", "mlp"] if anyoptim.optimizer_info(name).traits.names_targets else None
    optimizer = anyoptim.get_optimizer(
        name, model, lr=1e-3, weight_decay=weight_decay, optim_args=optim_args, optim_target_modules=targets
    )
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    optimizer.step()
    return optimizer


def backward_and_update(device: str, repeats: int, upstream_up_to: int) -> Table:
    """Measure a backward pass with the updates of LOMO and AdaLomo, and of AdamW after it."""
    table = Table(title="backward pass and update")
    for column in (
        "optimizer",
        "tensors",
        "of",
        "ms",
        "us a tensor",
        "upstream ms",
        "/ upstream",
        "/ foreach",
        "/ fused",
    ):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    for count, shape in COUNTS.items():
        actions = {(label, "upstream"): trained(*STEPS[label], count, shape, device) for label in (FOREACH, FUSED)}
        for name in BACKWARD:
            actions[name, "native"] = trained(name, "", count, shape, device)
            if count <= upstream_up_to:
                actions[name, "upstream"] = trained(name, "implementation=upstream", count, shape, device)
        medians = measured(actions, device, repeats)
        for name in BACKWARD:
            ours, theirs = medians[name, "native"], medians.get((name, "upstream"))
            table.add_row(
                name,
                f"{count:,}",
                "x".join(map(str, shape)),
                f"{ours * 1e3:.1f}",
                f"{ours * 1e6 / count:.0f}",
                f"{theirs * 1e3:.1f}" if theirs else "",
                f"{ours / theirs:.3f}" if theirs else "",
                f"{ours / medians[FOREACH, 'upstream']:.2f}",
                f"{ours / medians[FUSED, 'upstream']:.2f}",
            )
    return table


def trained(name: str, optim_args: str, count: int, shape: tuple[int, int], device: str) -> Prepared:
    """Return a backward pass with its update over ``count`` matrices; the forward pass is not in it."""
    model = nn.ParameterList(torch.randn(shape, device=device) * 0.02 for _ in range(count))
    factor = torch.randn(shape, device=device)
    with mock.patch.object(Tensor, "cuda", lambda self: self):  # lomo-optim's AdaLomo asks for a GPU
        optimizer: Any = anyoptim.get_optimizer(name, model, lr=1e-3, optim_args=optim_args)

    def prepared() -> Callable[[], object]:
        loss = torch.stack([(each * factor).sum() for each in model]).sum()
        if hasattr(optimizer, "fused_backward"):
            return lambda: optimizer.fused_backward(loss, 1e-3)
        return lambda: (loss.backward(), optimizer.step(), optimizer.zero_grad())

    return prepared


def measured(actions: dict[tuple[str, str], Prepared], device: str, repeats: int) -> dict[tuple[str, str], float]:
    """Return median seconds of each action, all taken in turn ``repeats`` times after one round to warm up."""
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in actions}
    for _ in range(repeats + 1):
        for key, prepared in actions.items():
            action = prepared()
            synchronize(device)
            began = time.perf_counter()
            action()
            synchronize(device)
            seconds[key].append(time.perf_counter() - began)
    return {key: statistics.median(taken[1:]) for key, taken in seconds.items()}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def copy_bandwidth(device: str) -> float:
    """Return the bytes a second that a copy of 256 MiB reads and writes."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    (taken,) = measured({("copy", ""): lambda: lambda: target.copy_(source)}, device, 20).values()
    return 2 * source.numel() * source.element_size() / taken


def bytes_to_move(optimizer: torch.optim.Optimizer) -> int:
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    return 3 * sum(each.numel() * each.element_size() for each in parameters) + 2 * measured_state_bytes(optimizer)


if __name__ == "__main__":
    typer.run(main)
