"""The checks that several processes make, which shard the tiny model.

It must train as in one process, on two and on four, and go on from torch's distributed checkpoints as if it had never
stopped, also on another number of them.
"""

from __future__ import annotations

import datetime
import faulthandler
import json
import multiprocessing
import os
import queue
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from anyoptim.names import registry, spelling
from anyoptim.names.spec import Across
from anyoptim.testing import meshes
from anyoptim.testing.meshes import Different
from anyoptim.testing.subject import Subject

TRAINS, RESUMES, TRAINS_HYBRID, MOVES = "FSDP2", "sharded checkpoints", "HSDP", "elastic"
"""The names of the checks."""

Part = tuple[int, Callable[[Subject, Path], str]]
"""The number of processes, and what they do: a subject and a folder are given, the evidence is returned."""
CHECKS: Mapping[str, Sequence[Part]] = {
    TRAINS: [(2, meshes.trains)],
    RESUMES: [(2, meshes.resumes)],
    TRAINS_HYBRID: [(4, meshes.trains_on_replicas)],
    MOVES: meshes.MOVES,
}
NEEDS = {RESUMES: TRAINS, TRAINS_HYBRID: TRAINS, MOVES: RESUMES}
"""The check that has to pass before another one makes sense."""
_RANKS = 4
_PATIENCE = 300.0  # a step that is compiled takes minutes on a CPU

Finding = tuple[bool, str]
"""Whether a promise is kept, and the evidence."""
Findings = Mapping[str, Finding]
"""By the name of the check; without those that need one that failed."""


def train_sharded(subjects: Sequence[Subject], way: Across | None = None) -> Iterator[tuple[Subject, Findings]]:
    """Train each subject in several processes and in one, save and load it, and yield what is found.

    A subject that makes the processes wait for each other forever is stopped, and new processes go on with the next.
    One of whose processes dies has a second try, and a warning says where it died: that was seen once, and not again.

    Args:
        subjects: what is tried.
        way: how they step there, whatever their specs say.
    """
    waiting = list(subjects)
    again: Subject | None = None
    context = multiprocessing.get_context("spawn")
    while waiting:
        with tempfile.TemporaryDirectory() as folder:
            results: Any = context.Queue()
            given = [(each.name, dict(each.fields)) for each in waiting]
            processes = [
                context.Process(target=_work, args=(rank, folder, given, way, results), daemon=True)
                for rank in range(_RANKS)
            ]
            for process in processes:
                process.start()
            try:
                while waiting:
                    found = _next_findings(results, processes, folder)
                    yield waiting.pop(0), found
            except _DiedError as error:
                if again is waiting[0]:
                    yield waiting.pop(0), {TRAINS: (False, str(error))}
                else:
                    again = waiting[0]
                    warnings.warn(f"{again.name}: {error}; it is tried once more.", stacklevel=2)
            except queue.Empty:
                late = (False, f"the processes wait for each other for more than {_PATIENCE:.0f} s")
                yield waiting.pop(0), {TRAINS: late}
            finally:
                for process in processes:
                    process.kill() if waiting else process.join(timeout=5)


class _DiedError(Exception):
    """A process has ended in the middle of its work."""


def _next_findings(results: Any, processes: Sequence[BaseProcess], folder: str) -> Findings:
    """Wait for what is found of the next subject.

    Raises:
        _DiedError: a process that others wait for is gone.
        queue.Empty: nothing has come for too long.
    """
    until = time.monotonic() + 2 * _PATIENCE
    while True:
        try:
            found: Findings = results.get(timeout=1)
            return found
        except queue.Empty:
            codes = [each.exitcode for each in processes if each.exitcode]
            if codes:
                dumps = "".join(each.read_text(errors="replace") for each in Path(folder).glob("stderr-*"))
                where = re.search(r"Current thread .*\n\s*(File .*)", dumps)
                raise _DiedError(
                    f"a process died with exit code {codes[0]}{f' in {where[1]}' if where else ''}"
                ) from None
            if time.monotonic() > until:
                raise


def _work(
    rank: int, folder: str, given: Sequence[tuple[str, dict[str, Any]]], way: Across | None, results: Any
) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(Path(folder, f"stderr-{rank}"), os.O_WRONLY | os.O_CREAT), 2)
    faulthandler.enable()
    for number, (name, fields) in enumerate(given):
        subject = _regardless(Subject(name, fields), way)
        found: dict[str, Finding] = {}
        for check, parts in CHECKS.items():
            if check in NEEDS and not found.get(NEEDS[check], (False, ""))[0]:
                continue
            place = Path(folder, f"{number}-{check}")
            place.mkdir(exist_ok=True)
            for at, (ranks, part) in enumerate(parts):
                own = _met(part, subject, rank, ranks, place / f"meeting-{at}") if rank < ranks else (True, "")
                found[check] = _worst(_told(place / f"found-{at}", rank, own))
                if not found[check][0]:
                    break
        if rank == 0:
            results.put(found)


def _told(place: Path, rank: int, own: Finding) -> list[Finding]:
    """Tell the other processes by files, which need no group, and return what all have found."""
    place.mkdir(exist_ok=True)
    (place / f"{rank}.new").write_text(json.dumps(own))
    (place / f"{rank}.new").rename(place / f"{rank}.json")
    paths = [place / f"{each}.json" for each in range(_RANKS)]
    while not all(path.exists() for path in paths):
        time.sleep(0.005)
    kept, evidence = zip(*(json.loads(path.read_text()) for path in paths), strict=True)
    return list(zip(kept, evidence, strict=True))


def _worst(findings: Sequence[Finding]) -> Finding:
    """Return the finding of a rank that failed, of several not one that just lost another; else the first."""
    failed = [each for each in findings if not each[0]]
    return min(failed, key=lambda each: "gloo" in each[1]) if failed else findings[0]


def _met(part: Callable[[Subject, Path], str], subject: Subject, rank: int, ranks: int, meeting: Path) -> Finding:
    """Do a part in a process group of its own: a rank that raises leaves it, so that the others do not wait."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank))
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=_PATIENCE),
    )
    try:
        return True, part(subject, meeting.parent)
    except (Exception, CheckpointException) as error:  # a stranger's optimizer may raise anything
        # the one that says which ranks failed holds why
        held = [each for each, _ in error.failures.values()] if isinstance(error, CheckpointException) else []
        why = held[0] if held else error
        text = str(why).strip().partition("\n")[0]
        return False, text if type(why) is Different else f"{type(why).__name__}: {text}"
    finally:
        dist.destroy_process_group()


def _regardless(subject: Subject, way: Across | None) -> Subject:
    """Return the subject under a name whose spec does not state that it cannot do what is tried here."""
    spec = subject.spec
    implementations = tuple(
        replace(
            each,
            limits={check: reason for check, reason in each.limits.items() if check not in CHECKS},
            across=each.across if way is None else way,
        )
        for each in spec.implementations
    )
    trial = replace(spec, name=f"trial/{spelling.normalise(spec.name)}", implementations=implementations, aliases=())
    trial = replace(trial, target_optimizer=spec.target_optimizer)
    registry.register(trial, replace=True)
    return Subject(trial.name, subject.fields)
