"""The DTensor check: two processes shard the tiny model by FSDP2, and must train it as one process does."""

from __future__ import annotations

import multiprocessing
import os
import queue
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from anyoptim.names import registry, spelling
from anyoptim.testing.subject import Subject, tiny_model, weights

_STEPS = 3
_PATIENCE = 300.0  # a step that is compiled takes minutes on a CPU
_CLOSE = 1e-5

Finding = tuple[bool, str]
"""Whether it trains like one process, and the evidence."""


def train_sharded(subjects: Sequence[Subject]) -> Iterator[tuple[Subject, Finding]]:
    """Train each subject in two processes and in one, and yield how the two compare.

    A subject that makes the processes wait for each other forever is stopped, and new processes go on with the next.
    """
    waiting = list(subjects)
    context = multiprocessing.get_context("spawn")
    while waiting:
        with tempfile.TemporaryDirectory() as folder:
            results: Any = context.Queue()
            given = [(each.name, dict(each.fields)) for each in waiting]
            processes = [
                context.Process(target=_work, args=(rank, folder, given, results), daemon=True) for rank in (0, 1)
            ]
            for process in processes:
                process.start()
            try:
                while waiting:
                    found = results.get(timeout=_PATIENCE)
                    yield waiting.pop(0), found
            except queue.Empty:
                yield waiting.pop(0), (False, f"the processes wait for each other for more than {_PATIENCE:.0f} s")
            finally:
                for process in processes:
                    process.kill() if waiting else process.join(timeout=5)


def _work(rank: int, folder: str, given: Sequence[tuple[str, dict[str, Any]]], results: Any) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    torch.distributed.init_process_group("gloo", init_method=f"file://{Path(folder, 'store')}", rank=rank, world_size=2)
    for name, fields in given:
        mine = _finding(Subject(name, fields))
        both: list[Finding] = [mine, mine]
        torch.distributed.all_gather_object(both, mine)
        if rank == 0:
            results.put(min(both))  # the one that failed
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _finding(subject: Subject) -> Finding:
    try:
        expected = _trained(subject, sharded=False)
        got = _trained(_regardless(subject), sharded=True)
    except Exception as error:  # a stranger's optimizer may raise anything
        return False, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    largest = max(float((expected[name] - got[name]).abs().max()) for name in expected)
    if not largest <= _CLOSE:
        return False, f"weights differ by {largest:.1e} after {_STEPS} steps"
    return True, f"weights within {largest:.0e} after {_STEPS} steps" if largest else f"bit-equal after {_STEPS} steps"


def _trained(subject: Subject, *, sharded: bool) -> dict[str, torch.Tensor]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model = tiny_model()
    if sharded:
        mesh = init_device_mesh("cpu", (2,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    torch.manual_seed(0)
    optimizer = subject.build(model)
    for seed in range(_STEPS):
        subject.step(model, optimizer, seed)
    return {
        name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in weights(model).items()
    }


def _regardless(subject: Subject) -> Subject:
    """Return the subject under a name whose spec does not state that it cannot do what is tried here."""
    spec = subject.spec
    implementations = tuple(
        replace(each, limits={check: reason for check, reason in each.limits.items() if check != "DTensor"})
        for each in spec.implementations
    )
    trial = replace(spec, name=f"trial/{spelling.normalise(spec.name)}", implementations=implementations, aliases=())
    trial = replace(trial, target_optimizer=spec.target_optimizer)
    registry.register(trial, replace=True)
    return Subject(trial.name, subject.fields)
