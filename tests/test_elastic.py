"""The real Trainer goes on from a sharded checkpoint on another number of ranks, also where a rank was killed."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from ranks import started
from torch.distributed.checkpoint import FileSystemWriter
from two_processes import SAVED, STEPS, Case, distance, whole_weights

import anyoptim

MODE = "fsdp-sharded"
NAMES = ["adamw_torch", "muon", "lamb", "adopt", "apollo_mini", "galore_adamw", "schedule_free_adamw"]
"""As they are, part by part and with owners."""
BOUND = 1e-9  # of fp64, whose sums over another number of ranks differ in the last digits


def trains(name: str, folder: Path) -> None:
    """Train to the end, saving in the middle; the first rank keeps the weights."""
    with anyoptim.enable():
        trainer, _ = Case(name, MODE, folder).run()
    weights = whole_weights(trainer)
    if dist.get_rank() == 0:
        torch.save(weights, folder / f"{name}.pt")


def goes_on(name: str, folder: Path, checkpoint: str | bool = f"checkpoint-{SAVED}") -> None:
    """Resume, and be where those are who never stopped."""
    with anyoptim.enable():
        trainer, _ = Case(name, MODE, folder).run(resume=checkpoint)
    assert trainer.state.global_step == STEPS
    expected = torch.load(folder / f"{name}.pt")
    assert distance(whole_weights(trainer), expected) <= BOUND


def is_killed(name: str, folder: Path) -> None:
    """Save at every step; the second rank dies in the third save, half of its state written."""
    write = FileSystemWriter.write_data

    def half(self: FileSystemWriter, *given: Any) -> Any:
        if dist.get_rank() == 1 and f"checkpoint-{SAVED}" in str(self.path) and "optimizer" in str(self.path):
            write(self, *given).wait()
            (part,) = Path(self.path).glob("__1_*.distcp")
            os.truncate(part, part.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, *given)

    with anyoptim.enable(), mock.patch.object(FileSystemWriter, "write_data", half):
        Case(name, MODE, folder, save_steps=1).run()


@pytest.mark.parametrize("name", ["muon", pytest.param("lamb", marks=pytest.mark.slow)])
def test_a_rank_is_killed_in_a_save_and_fewer_go_on(name: str, tmp_path: Path) -> None:
    assert started({"straight": partial(trains, name, tmp_path / "straight")}, 2)["straight"] == [""] * 2
    (tmp_path / f"{name}.pt").write_bytes((tmp_path / "straight" / f"{name}.pt").read_bytes())
    killed = started({"killed": partial(is_killed, name, tmp_path)}, 4)["killed"]
    assert killed[1] == f"rank ended with {-signal.SIGKILL}"
    folder = tmp_path / MODE / name
    assert {each.name for each in folder.glob("checkpoint-*")} >= {f"checkpoint-{SAVED - 1}"}
    assert started({"on": partial(goes_on, name, tmp_path, checkpoint=True)}, 2)["on"] == [""] * 2


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 4), (2, 1), (4, 2), (1, 2)])
def test_another_number_of_ranks_goes_on(before: int, after: int, tmp_path: Path) -> None:
    first = started({name: partial(trains, name, tmp_path) for name in NAMES}, before)
    assert first == {name: [""] * before for name in NAMES}
    second = started({name: partial(goes_on, name, tmp_path) for name in NAMES}, after)
    assert second == {name: [""] * after for name in NAMES}
