"""What the manifest of a checkpoint costs: saves of a real Trainer, with manifests and without.

    python benchmarks/checkpoint.py --repeats 11

Runs with and without are interleaved in one process. A save is timed from the end of its step to the beginning of the
next one, so waiting for the manifest before counts, too; what the thread costs besides shows in the step that runs
beside it. The last rows are the thread's own time, and what a resume takes to read all files again.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import anyoptim
from anyoptim.integrations import checkpoints
from anyoptim.integrations.manifest import read_manifest, write_manifest
from anyoptim.integrations.whole import whole_checkpoint

CONFIG = LlamaConfig(
    vocab_size=8000, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8
)
EVERY = 2
"""Steps from one save to the next."""
SAVE, BESIDE, OTHERS = "a save", "the step after it", "the step after that"


class NoManifests:
    """Has the methods of what writes manifests, and writes none."""

    def begin(self, checkpoint: Path) -> None: ...

    def complete(self, checkpoint: Path, step: int) -> None: ...

    def write(self) -> None: ...

    def finish(self, alone: bool) -> None: ...


class Tokens(Dataset[dict[str, torch.Tensor]]):
    """The same tokens again and again."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.arange(128) + index
        return {"input_ids": tokens, "labels": tokens}


class Clock(TrainerCallback):
    """Notes seconds of saves and of steps."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._since = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step and state.global_step % EVERY == 0:
            self._note(SAVE)
        self._since = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step > EVERY:
            self._note(BESIDE if state.global_step % EVERY == 1 else OTHERS)
        self._since = time.perf_counter()

    def _note(self, what: str) -> None:
        self.seconds[what].append(time.perf_counter() - self._since)


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Saves of each kind.")] = 12,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each kind, one after another.")] = 4,
) -> None:
    """Print the table."""
    anyoptim.enable()
    with_and_without: dict[bool, defaultdict[str, list[float]]] = {each: defaultdict(list) for each in (True, False)}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            for manifests, seconds in with_and_without.items():
                for what, found in trained(folder, manifests, saves=-(-repeats // runs)).items():
                    seconds[what] += found
            checkpoint = Path(str(whole_checkpoint(True, folder)))
        size = sum(each.stat().st_size for each in checkpoint.rglob("*") if each.is_file())
        hashing = median(lambda: write_manifest(checkpoint, 0), repeats)
        manifest = read_manifest(checkpoint)
        reading = median(lambda: manifest.flaw(checkpoint), repeats) if manifest else 0.0
    table = Table(title=f"checkpoints of {size / 2**20:.0f} MiB, medians of {repeats} and more")
    for column in ("", "with manifest, ms", "without, ms", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for what in (SAVE, BESIDE, OTHERS):
        ours, theirs = (statistics.median(each[what]) for each in with_and_without.values())
        table.add_row(what, f"{ours * 1e3:.1f}", f"{theirs * 1e3:.1f}", f"{ours / theirs:.3f}")
    table.add_row("the thread, processor time", f"{hashing * 1e3:.1f}", "", "")
    table.add_row("reading all again before a resume", f"{reading * 1e3:.1f}", "", "")
    print(f"{os.cpu_count()} CPU cores, torch {torch.__version__}, Python {platform.python_version()}")
    Console(width=120).print(table)


def trained(folder: str, manifests: bool, saves: int) -> dict[str, list[float]]:
    """Train so long that there are so many saves after the first, and return the seconds."""
    clock = Clock()
    arguments = TrainingArguments(
        folder,
        optim="adamw_torch",
        use_cpu=True,
        max_steps=EVERY * (saves + 2),
        save_steps=EVERY,
        save_total_limit=2,
        per_device_train_batch_size=4,
        report_to=[],
        logging_strategy="no",
        disable_tqdm=True,
    )
    off = nullcontext() if manifests else mock.patch.object(checkpoints, "Manifests", NoManifests)
    with off:
        Trainer(LlamaForCausalLM(CONFIG), arguments, train_dataset=Tokens(), callbacks=[clock]).train()
    return {what: each[1:] for what, each in clock.seconds.items()}


def median(action: Callable[[], object], repeats: int) -> float:
    """Return the median of processor seconds."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        found.append(time.process_time() - start)
    return statistics.median(found)


if __name__ == "__main__":
    typer.run(main)
