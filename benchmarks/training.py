"""Held-out losses of one Llama in fp32, in bf16 with 24 bits and int8 state between steps, and in bf16 alone.

    python benchmarks/training.py        # what is in results/training/runs.jsonl is not run again

A run is 1,000 steps on Python's standard library, byte by byte. CPUs multiply bf16 slowly, so a product's inputs are
taken to fp32 and its result is rounded to bf16, as tensor cores do it: bf16 in, sums in fp32, bf16 out. All that is
between products is computed in bf16 as on a GPU, and gradients arrive in bf16.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

import anyoptim
from anyoptim.comparing.stdlib_text import VOCABULARY, Bytes, stdlib_bytes
from anyoptim.engines.packed_state import SCALE, is_remainder, word_of
from anyoptim.memory.state import bytes_held

RESULTS = Path(__file__).parent / "results" / "training"
SHAPE = {"hidden_size": 256, "intermediate_size": 736, "num_hidden_layers": 6, "num_attention_heads": 4}
LENGTH, SEQUENCES, STEPS, WARMUP, LOWEST = 32, 2, 1000, 50, 0.1
HELDOUT_BYTES, POINTS = 8_192, 10


@dataclass(frozen=True)
class Setting:
    """How weights and state are held.

    Args:
        dtype: of weights and gradients.
        arguments: what is said to the optimizer.
    """

    dtype: torch.dtype
    arguments: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tuned:
    """An optimizer's learning rate, near the best of a few tried for 150 steps in fp32, and its other arguments.

    Args:
        lr: the rate.
        arguments: what else is said to it.
        seeds: of the first weights and of the order of data; more where three do not tell settings apart.
    """

    lr: float
    arguments: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)


SETTINGS = {
    "fp32": Setting(torch.float32),
    "24bit + int8": Setting(torch.bfloat16, {"master_weights": "24bit", "state_dtype": "int8"}),
    "bf16": Setting(torch.bfloat16, {"master_weights": "own"}),
}
# optimi's own Kahan sum would lie behind weights in plain bf16
OPTIMIZERS = {
    "adamw_torch": Tuned(1e-3, seeds=(0, 1, 2, 3, 4, 5)),
    "lion": Tuned(1e-4, {"kahan_sum": False}),
    "stable_adamw": Tuned(1e-3, {"kahan_sum": False}),
    "timm/adopt": Tuned(1e-3),
    "muon": Tuned(2e-2, {"fallback_lr": 1e-3}),
    "pytorch_optimizer/soap": Tuned(3e-3, {"precondition_frequency": 10, "max_precondition_dim": 256}),
    "apollo_adamw": Tuned(1e-2, {"rank": 64}),
}
MATRICES = ["attn", "mlp"]


def main(
    workers: Annotated[int, typer.Option(help="Runs at once, each with one thread.")] = 2,
    steps: Annotated[int, typer.Option(help="Of a run.")] = STEPS,
    only: Annotated[list[str] | None, typer.Option(help="These optimizers only.")] = None,
    lr: Annotated[list[float] | None, typer.Option(help="Try these rates in fp32, and write to no file.")] = None,
) -> None:
    """Run what is not in the file yet, all optimizers with the first seed first."""
    names = only or list(OPTIMIZERS)
    if lr:
        for name, each in ((name, each) for name in names for each in lr):
            found = run(name, "fp32", 0, steps, each)
            print(f"{name} {each:g}: {found['heldout'][-1]:.4f}, {found['ms']:.0f} ms a step", flush=True)
        return
    file = RESULTS / "runs.jsonl"
    RESULTS.mkdir(parents=True, exist_ok=True)
    done = {key_of(each) for each in read(file)}
    # what is compared first; plain bf16, which stands beside it, last
    settings = sorted(SETTINGS, key=lambda each: each == "bf16")
    parts = [settings[:-1], settings[-1:]]
    seeds = sorted({seed for name in names for seed in OPTIMIZERS[name].seeds})
    wanted = [
        (name, each, seed)
        for part in parts
        for seed in seeds
        for name in names
        if seed in OPTIMIZERS[name].seeds
        for each in part
    ]
    # a run that fails leaves no line, so that the next call runs it
    for found in runs_of([each for each in wanted if each not in done], workers, steps):
        with file.open("a") as lines:
            lines.write(json.dumps(found) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """Return the runs of a file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def key_of(found: dict[str, Any]) -> tuple[str, str, int]:
    """Return what tells a run from the others."""
    return found["optimizer"], found["setting"], found["seed"]


def runs_of(wanted: Iterable[tuple[str, str, int]], workers: int, steps: int) -> Iterator[dict[str, Any]]:
    """Yield runs as they come to their end."""
    started = time.perf_counter()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(run, *each, steps): each for each in wanted}
        for future in as_completed(running):
            name, setting, seed = running[future]
            said = f"{(time.perf_counter() - started) / 60:5.1f} min  {name}, {setting}, seed {seed}: "
            if error := future.exception():
                print(f"{said}{type(error).__name__}: {error}", flush=True)
                continue
            found = future.result()
            print(f"{said}{found['heldout'][-1]:.4f}, {found['ms']:.0f} ms a step", flush=True)
            yield found


def run(name: str, setting: str, seed: int, steps: int, lr: float | None = None) -> dict[str, Any]:
    """Train once, and return what the report needs.

    Args:
        name: one of ``OPTIMIZERS``.
        setting: one of ``SETTINGS``.
        seed: of the first weights and of the order of data.
        steps: how many.
        lr: instead of the one that stands in the table.
    """
    torch.set_num_threads(1)
    tuned, chosen = OPTIMIZERS[name], SETTINGS[setting]
    train, heldout = stdlib_bytes(LENGTH, heldout_bytes=HELDOUT_BYTES)
    model, reference = llama(seed), llama(seed)
    with_emulated_products(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(chosen.dtype)
    arguments = {**tuned.arguments, **chosen.arguments}
    targets = MATRICES if anyoptim.optimizer_info(name).traits.names_targets else None
    optimizer = anyoptim.get_optimizer(
        name, model, lr=lr or tuned.lr, optim_args=text_of(arguments), optim_target_modules=targets
    )
    schedule = LambdaLR(optimizer, partial(rate_at, steps=steps))
    order = torch.Generator().manual_seed(seed)
    every, losses, curve, seconds = max(1, steps // POINTS), [], [], 0.0
    for step in range(1, steps + 1):
        tokens = windows(train, torch.randint(len(train), (SEQUENCES,), generator=order))
        before = time.perf_counter()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - before
        losses.append(loss.item())
        if step % every == 0:
            curve.append(heldout_loss(model, reference, heldout))
        if step == steps:
            held = bytes_of(model, optimizer)
        optimizer.zero_grad()
    return {
        "optimizer": name,
        "setting": setting,
        "seed": seed,
        "heldout": curve,
        "at": list(range(every, steps + 1, every)),
        "train": [sum(losses[i : i + every]) / every for i in range(0, steps, every)],
        "bytes_per_parameter": held,
        "ms": 1000 * seconds / steps,
        "lr": lr or tuned.lr,
        "arguments": arguments,
    }


def llama(seed: int) -> Any:
    """Return the model in fp32."""
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=LENGTH, tie_word_embeddings=False, **SHAPE)
    config._attn_implementation = "emulated"
    return LlamaForCausalLM(config)


def with_emulated_products(model: nn.Module) -> None:
    """Let a model's linear maps multiply in fp32 whatever dtype goes in, and give that dtype; see ``attention``."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.forward = partial(linear, module)  # type: ignore[method-assign]  # for this model alone


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x.float(), module.weight.float()).to(x.dtype)


def attention(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, **_: object
) -> tuple[Tensor, None]:
    """Attend with products in fp32 as in ``linear``: (batch, heads, length, size) each."""
    attended = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True, scale=scaling)
    return attended.to(q.dtype).transpose(1, 2).contiguous(), None


AttentionInterface.register("emulated", attention)


def rate_at(step: int, steps: int) -> float:
    """Return the part of the learning rate: up in ``WARMUP`` steps, then a cosine down to ``LOWEST``."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return LOWEST + (1 - LOWEST) * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP))) / 2


def windows(text: Bytes, indices: Iterable[int]) -> Tensor:
    """Return windows of a text as (count, length) int64."""
    return torch.stack([text[int(index)]["input_ids"] for index in indices])


@torch.no_grad()
def heldout_loss(model: nn.Module, reference: nn.Module, heldout: Bytes) -> float:
    """Return nats per byte of the weights that a model has, computed in fp32."""
    reference.load_state_dict(model.state_dict())
    batches = torch.arange(len(heldout)).split(64)
    losses = []
    for indices in batches:
        tokens = windows(heldout, indices)
        losses.append(reference(input_ids=tokens, labels=tokens).loss.item() * len(indices))
    return sum(losses) / len(heldout)


def bytes_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the bytes that a parameter takes after a step, by what they are for."""
    parameters = list(model.parameters())
    found = dict.fromkeys(("weights", "behind weights", "gradients", "state", "scales"), 0.0)
    for parameter in parameters:
        found["weights"] += bytes_held(parameter.detach()).total
        found["gradients"] += bytes_held(parameter.grad).total
        for key, value in optimizer.state[parameter].items():
            kind = "behind weights" if is_remainder(key) else "scales" if word_of(key) == SCALE else "state"
            found[kind] += bytes_held(value).total
    count = sum(parameter.numel() for parameter in parameters)
    return {kind: size / count for kind, size in found.items()}


def text_of(arguments: dict[str, Any]) -> str:
    """Return arguments as they are written after ``optim_args=``."""
    return ",".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in arguments.items()
    )


if __name__ == "__main__":
    typer.run(main)
