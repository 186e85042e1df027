"""The checks that two processes make, which shard the tiny model by FSDP2.

It must train as in one process, and go on from torch's distributed checkpoints as if it had never stopped.
"""

from __future__ import annotations

import copy
import datetime
import multiprocessing
import os
import queue
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.optim import Optimizer

from anyoptim.names import registry, spelling
from anyoptim.testing.subject import Subject, tiny_model, weights

TRAINS, RESUMES = "DTensor", "sharded checkpoints"
"""The names of the checks."""

_STEPS, _FURTHER = 10, 2
_PATIENCE = 300.0  # a step that is compiled takes minutes on a CPU
_CLOSE, _SHARE = 1e-5, 1e-2
"""How far two runs may be apart, and which share of how far they have gone."""

Finding = tuple[bool, str]
"""Whether a promise is kept, and the evidence."""
Findings = Mapping[str, Finding]
"""By the name of the check; without the second, where the first one failed."""


def train_sharded(subjects: Sequence[Subject]) -> Iterator[tuple[Subject, Findings]]:
    """Train each subject in two processes and in one, save and load it, and yield what is found.

    A subject that makes the processes wait for each other forever is stopped, and new processes go on with the next.
    """
    waiting = list(subjects)
    context = multiprocessing.get_context("spawn")
    while waiting:
        with tempfile.TemporaryDirectory() as folder:
            results: list[Any] = [context.Queue(), context.Queue()]
            given = [(each.name, dict(each.fields)) for each in waiting]
            processes = [
                context.Process(target=_work, args=(rank, folder, given, results[rank]), daemon=True) for rank in (0, 1)
            ]
            for process in processes:
                process.start()
            try:
                while waiting:
                    first, second = (each.get(timeout=2 * _PATIENCE) for each in results)
                    yield (
                        waiting.pop(0),
                        {check: _worse(first[check], second[check]) for check in first if check in second},
                    )
            except queue.Empty:
                late = (False, f"the processes wait for each other for more than {_PATIENCE:.0f} s")
                yield waiting.pop(0), {TRAINS: late}
            finally:
                for process in processes:
                    process.kill() if waiting else process.join(timeout=5)


def _worse(one: Finding, other: Finding) -> Finding:
    """Return the finding of the rank that failed; of two, the one that did not just lose the other."""
    return min(one, other, key=lambda finding: (finding[0], "gloo" in finding[1]))


def _work(rank: int, folder: str, given: Sequence[tuple[str, dict[str, Any]]], results: Any) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    for number, (name, fields) in enumerate(given):
        subject = _regardless(Subject(name, fields))
        found = {}
        for check, made in ((TRAINS, _trains), (RESUMES, _resumes)):
            found[check] = _met(made, subject, rank, Path(folder, f"{number}-{check}"))
            if not found[check][0]:
                break
        results.put(found)


def _met(check: Callable[[Subject], str], subject: Subject, rank: int, meeting: Path) -> Finding:
    """Make a check in a process group of its own: a rank that raises leaves it, so that the other does not wait."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=_PATIENCE),
    )
    try:
        return True, check(subject)
    except (Exception, CheckpointException) as error:  # a stranger's optimizer may raise anything
        text = str(error).strip().partition("\n")[0]
        return False, text if type(error) is _Different else f"{type(error).__name__}: {text}"
    finally:
        dist.destroy_process_group()


class _Different(Exception):
    """Two runs are not alike."""


def _trains(subject: Subject) -> str:
    """Train as in one process."""
    ends, start = [], _whole(tiny_model())
    for sharded in (False, True):
        model, optimizer = _built(subject, sharded=sharded)
        _train(subject, model, optimizer, range(_STEPS))
        ends.append(_whole(model))
    largest = _distance(*ends)
    if not largest <= min(_CLOSE, _SHARE * _distance(ends[0], start)):
        raise _Different(f"weights differ by {largest:.1e} after {_STEPS} steps")
    return f"weights within {largest:.0e} after {_STEPS} steps" if largest else f"bit-equal after {_STEPS} steps"


def _resumes(subject: Subject) -> str:
    """Go on alike from a sharded and from a full state dict."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_state_dict,
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    model, optimizer = _built(subject, sharded=True)
    _train(subject, model, optimizer, range(_STEPS))
    saved = {}
    for kind in ("sharded", "full"):
        saving = StateDictOptions(full_state_dict=kind == "full", cpu_offload=kind == "full")
        saved[kind] = copy.deepcopy(get_state_dict(model, optimizer, options=saving))
    after = range(_STEPS, _STEPS + _FURTHER)
    _train(subject, model, optimizer, after)
    for kind, (of_model, of_optimizer) in saved.items():
        fresh, resumed = _built(subject, sharded=True)
        loading = StateDictOptions(full_state_dict=kind == "full", broadcast_from_rank0=kind == "full")
        set_model_state_dict(fresh, of_model, options=loading)
        read = of_optimizer if kind == "full" else _through_files(of_optimizer, fresh, resumed)
        set_optimizer_state_dict(fresh, resumed, read, options=loading)
        _train(subject, fresh, resumed, after)
        largest = _distance(_whole(fresh), _whole(model))
        if largest:
            raise _Different(f"weights differ by {largest:.1e} after going on from a {kind} state dict")
    return "bit-equal from a sharded and a full state dict"


def _through_files(saved: Any, model: nn.Module, optimizer: Optimizer) -> Any:
    """Write a sharded state dict, and read it into that of another optimizer."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.checkpoint.state_dict_saver import save

    folder: list[Any] = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)
    save({"optimizer": saved}, checkpoint_id=folder[0])
    held = {"optimizer": get_optimizer_state_dict(model, optimizer)}
    load(held, checkpoint_id=folder[0])
    return held["optimizer"]


def _built(subject: Subject, *, sharded: bool) -> tuple[nn.Module, Optimizer]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = tiny_model()
    if sharded:
        mesh = init_device_mesh("cpu", (2,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    torch.manual_seed(0)  # some draw numbers when they are built
    return model, subject.build(model)


def _train(subject: Subject, model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    torch.manual_seed(steps.start)  # as a Trainer does that resumes
    for seed in steps:
        subject.step(model, optimizer, seed)


def _whole(model: nn.Module) -> dict[str, Tensor]:
    from torch.distributed.tensor import DTensor

    return {
        name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in weights(model).items()
    }


def _distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def _regardless(subject: Subject) -> Subject:
    """Return the subject under a name whose spec does not state that it cannot do what is tried here."""
    spec = subject.spec
    implementations = tuple(
        replace(each, limits={check: reason for check, reason in each.limits.items() if check not in (TRAINS, RESUMES)})
        for each in spec.implementations
    )
    trial = replace(spec, name=f"trial/{spelling.normalise(spec.name)}", implementations=implementations, aliases=())
    trial = replace(trial, target_optimizer=spec.target_optimizer)
    registry.register(trial, replace=True)
    return Subject(trial.name, subject.fields)
