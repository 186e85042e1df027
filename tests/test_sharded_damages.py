"""Damage to a sharded checkpoint is a sentence on every rank, and no rank waits for another."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
import torch.distributed as dist
from damages import MANIFEST, a_folder, cut, flip, missing, of_another_step, swap, write
from ranks import Cases, found
from two_processes import SAVED, STEPS, Case

import anyoptim

OTHER = SAVED - 1
SHARD, METADATA = "optimizer_0/__1_0.distcp", "optimizer_0/.metadata"
DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "a shard is cut off": partial(cut, SHARD, 0.5),
    "a shard is flipped": partial(flip, SHARD, 0),
    "a shard is missing": partial(missing, SHARD),
    "a shard of another step": partial(swap, SHARD),
    "weights of another step": partial(swap, "pytorch_model_fsdp_0/__0_0.distcp"),
    "the metadata is cut off": partial(cut, METADATA, 0.5),
    "the metadata is flipped": partial(flip, METADATA, 0),
    "the scheduler is a folder": partial(a_folder, "scheduler.pt"),
    "a random state is missing": partial(missing, "rng_state_1.pth"),
    "a random state is cut off": partial(cut, "rng_state_1.pth", 0.5),
    "the state is a list": partial(write, "[]"),
    "the state is of another step": of_another_step,
    "the manifest is cut off": partial(cut, MANIFEST, 0.5),
}
WITHOUT_MANIFEST = [  # a random state that is cut off is said by its rank alone; torchrun ends the others
    "a shard is cut off",
    "a shard is missing",
    "the metadata is cut off",
    "the scheduler is a folder",
    "a random state is missing",
    "the state is a list",
]


@cache
def saved() -> Path:
    """The folder of a run that has saved at every step; all ranks take part."""
    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)
    case = Case("muon", "fsdp-sharded", Path(folder[0]), save_steps=1)
    with anyoptim.enable():
        case.run()
    return case.folder


def is_refused(damage: str, with_manifest: bool) -> None:
    whole = saved()
    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)
    case = Case("muon", "fsdp-sharded", Path(folder[0]))
    checkpoint = case.folder / f"checkpoint-{SAVED}"
    if dist.get_rank() == 0:
        shutil.copytree(whole / checkpoint.name, checkpoint)
        DAMAGES[damage](checkpoint, whole / f"checkpoint-{OTHER}")
        if not with_manifest:
            (checkpoint / MANIFEST).unlink()
    dist.barrier()
    with anyoptim.enable(), warnings.catch_warnings(), pytest.raises(anyoptim.CheckpointError) as refused:
        warnings.simplefilter("ignore")
        case.run(resume=f"checkpoint-{SAVED}")
    assert not re.search(r"Errno|weights_only|Traceback|\n", str(refused.value)), str(refused.value)
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(folder[0])


def goes_on() -> None:
    """What is whole is not refused."""
    whole = saved()
    assert (whole / f"checkpoint-{SAVED}" / MANIFEST).exists()
    case = Case("muon", "fsdp-sharded", whole.parent.parent)
    with anyoptim.enable():
        trainer, _ = case.run(resume=f"checkpoint-{SAVED}")
    assert trainer.state.global_step == STEPS


TWO: Cases = {
    "whole": goes_on,
    **{damage: partial(is_refused, damage, True) for damage in DAMAGES},
    **{f"{damage}, no manifest": partial(is_refused, damage, False) for damage in WITHOUT_MANIFEST},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", TWO)
def test_every_rank_says_it(case: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    assert found(TWO, 2, folder / "sharded-damages.json")[case] == ["", ""]
