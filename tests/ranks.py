"""Functions that every rank of a gloo group runs, many of them in one start: a start costs seconds."""

from __future__ import annotations

import datetime
import json
import os
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from pathlib import Path

import torch
import torch.distributed as dist
from filelock import FileLock
from processes import new_process
from torch.distributed.checkpoint.api import CheckpointException

Cases = Mapping[str, Callable[[], None]]
"""Functions by the name of a case: each asserts what must hold on its rank."""


def found(cases: Cases, size: int, file: Path) -> dict[str, list[str]]:
    """What went wrong in each case on each rank, "" for nothing; by whichever worker of pytest-xdist comes first."""
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            file.write_text(json.dumps(started(cases, size)))
    return json.loads(file.read_text())  # type: ignore[no-any-return]  # what was written above


def started(cases: Cases, size: int, patience: float = 1200.0) -> dict[str, list[str]]:
    """Run the cases on as many ranks; one that dies is said at its case and those after it."""
    with tempfile.TemporaryDirectory() as folder:  # where they meet: no two starts share one
        processes = [new_process(_work, rank, size, dict(cases), folder) for rank in range(size)]
        wait([each.sentinel for each in processes], timeout=patience)
        for process in processes:
            process.join(90)
            process.kill()
            process.join()
        lines = [_lines(Path(folder, str(rank))) for rank in range(size)]
    ended = [f"rank ended with {each.exitcode}" for each in processes]
    return {
        case: [line[at] if at < len(line) else end for line, end in zip(lines, ended, strict=True)]
        for at, case in enumerate(cases)
    }


def _lines(path: Path) -> list[str]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _work(rank: int, size: int, cases: Cases, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for number, (name, case) in enumerate(cases.items()):
        # a group of its own: a rank that raises closes it, and the others raise instead of waiting
        said = ""
        try:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{folder}/meeting-{number}",
                rank=rank,
                world_size=size,
                timeout=datetime.timedelta(seconds=60),
            )
            dist.barrier()  # a case that sends nothing may be over, and its group closed, before the others have met
            case()
        except (Exception, CheckpointException) as error:  # the other rank must go on to the next case
            said = f"{name} on rank {rank}: {type(error).__name__}: {error}\n{traceback.format_exc()[-1500:]}"
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        with Path(folder, str(rank)).open("a") as file:
            file.write(json.dumps(said) + "\n")
