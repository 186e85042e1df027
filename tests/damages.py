"""What can happen to a checkpoint: files cut off, bytes flipped, swapped with another step's, of the wrong content."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from anyoptim.integrations.manifest import NAME as MANIFEST

Damage = Callable[[Path, Path], None]
"""Takes a checkpoint and another one of the same run."""

WEIGHTS, OPTIMIZER, SCHEDULER, RANDOM, STATE, ARGS = (
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "training_args.bin",
)
CUT = {WEIGHTS: 9, OPTIMIZER: 9, SCHEDULER: 4, RANDOM: 3, STATE: 4, MANIFEST: 3}
FLIPPED = {WEIGHTS: 4, OPTIMIZER: 4, SCHEDULER: 2, RANDOM: 2, STATE: 2, MANIFEST: 2, ARGS: 1}
SWAPPED = [WEIGHTS, OPTIMIZER, SCHEDULER, STATE, MANIFEST]  # no random number is drawn between two steps
CONTENTS = {"a list": "[]", "null": "null", "a number": "7", "no state": '{"global_step": "4"}'}


def cut(file: str, part: float, checkpoint: Path, _: Path) -> None:
    path = checkpoint / file
    os.truncate(path, int(path.stat().st_size * part))


def flip(file: str, seed: int, checkpoint: Path, _: Path) -> None:
    path = checkpoint / file
    data = bytearray(path.read_bytes())
    chance = random.Random(seed)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def swap(file: str, checkpoint: Path, other: Path) -> None:
    shutil.copy(other / file, checkpoint / file)


def write(text: str, checkpoint: Path, _: Path) -> None:
    (checkpoint / STATE).write_text(text)


def of_another_step(checkpoint: Path, _: Path) -> None:
    state = json.loads((checkpoint / STATE).read_text())
    (checkpoint / STATE).write_text(json.dumps({**state, "global_step": state["global_step"] - 1}))


def a_folder(file: str, checkpoint: Path, _: Path) -> None:
    (checkpoint / file).unlink()
    (checkpoint / file).mkdir()


def transposed(checkpoint: Path, _: Path) -> None:
    held = torch.load(checkpoint / OPTIMIZER, weights_only=True)
    for state in held["state"].values():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim() == 2:
                state[key] = value.T.contiguous()
    torch.save(held, checkpoint / OPTIMIZER)


def emptied(checkpoint: Path, _: Path) -> None:
    held = torch.load(checkpoint / OPTIMIZER, weights_only=True)
    state = held["state"][0]
    key = next(key for key, value in state.items() if isinstance(value, torch.Tensor) and value.dim())
    state[key] = torch.empty(0)
    torch.save(held, checkpoint / OPTIMIZER)


def other_weights(checkpoint: Path, _: Path) -> None:
    held = load_file(checkpoint / WEIGHTS)
    save_file({name: value + 1 for name, value in held.items()}, checkpoint / WEIGHTS, {"format": "pt"})


def of_another_folder(checkpoint: Path, other: Path) -> None:
    shutil.rmtree(checkpoint)
    shutil.copytree(other, checkpoint)


def missing(file: str, checkpoint: Path, _: Path) -> None:
    (checkpoint / file).unlink()


def _all() -> Iterator[tuple[str, Damage]]:
    for file, times in CUT.items():
        for at in range(times):
            yield f"{file} cut at {at}/{times}", partial(cut, file, at / times)
    for file, times in FLIPPED.items():
        for seed in range(times):
            yield f"{file} flipped {seed}", partial(flip, file, seed)
    for file in SWAPPED:
        yield f"{file} of another step", partial(swap, file)
    for what, text in CONTENTS.items():
        yield f"{STATE} is {what}", partial(write, text)
    yield f"{STATE} of another global_step", of_another_step
    for file in (SCHEDULER, OPTIMIZER, RANDOM):
        yield f"{file} is a folder", partial(a_folder, file)
    yield "state transposed", transposed
    yield "state emptied", emptied
    yield "other weights", other_weights
    yield f"a folder of another step, with its {MANIFEST}", of_another_folder
    yield "no weights", partial(missing, WEIGHTS)


DAMAGES = dict(_all())
