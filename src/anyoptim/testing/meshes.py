"""What several processes do with a subject on a device mesh; each function is called by all of them."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from anyoptim.testing.subject import Subject, tiny_model, weights

_STEPS, _FURTHER = 10, 2
_CLOSE, _SHARE = 1e-5, 1e-2
"""How far two runs may be apart, and which share of how far they have gone."""
_ROUNDED = 1e-6
"""How far they may be where sums are over another number of processes."""


class Different(Exception):
    """Two runs are not alike."""


def trains(subject: Subject, _: Path) -> str:
    """Train as in one process, sharded over all."""
    return _as_one(subject, (dist.get_world_size(),))


def trains_on_replicas(subject: Subject, _: Path) -> str:
    """Train as in one process, sharded over each half, two of which are replicas."""
    return _as_one(subject, (2, dist.get_world_size() // 2))


def _as_one(subject: Subject, mesh: tuple[int, ...]) -> str:
    ends, start = [], _whole(tiny_model())
    for sharded in (None, mesh):
        model, optimizer = _built(subject, sharded)
        _train(subject, model, optimizer, range(_STEPS))
        ends.append(_whole(model))
    largest = _distance(*ends)
    if not largest <= min(_CLOSE, _SHARE * _distance(ends[0], start)):
        raise Different(f"weights differ by {largest:.1e} after {_STEPS} steps")
    return f"weights within {largest:.0e} after {_STEPS} steps" if largest else f"bit-equal after {_STEPS} steps"


def resumes(subject: Subject, _: Path) -> str:
    """Go on alike from a sharded and from a full state dict."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_state_dict,
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    mesh = (dist.get_world_size(),)
    model, optimizer = _built(subject, mesh)
    _train(subject, model, optimizer, range(_STEPS))
    saved = {}
    for kind in ("sharded", "full"):
        saving = StateDictOptions(full_state_dict=kind == "full", cpu_offload=kind == "full")
        saved[kind] = copy.deepcopy(get_state_dict(model, optimizer, options=saving))
    after = range(_STEPS, _STEPS + _FURTHER)
    _train(subject, model, optimizer, after)
    for kind, (of_model, of_optimizer) in saved.items():
        fresh, resumed = _built(subject, mesh)
        loading = StateDictOptions(full_state_dict=kind == "full", broadcast_from_rank0=kind == "full")
        set_model_state_dict(fresh, of_model, options=loading)
        read = of_optimizer if kind == "full" else _through_files(of_optimizer, fresh, resumed)
        set_optimizer_state_dict(fresh, resumed, read, options=loading)
        _train(subject, fresh, resumed, after)
        largest = _distance(_whole(fresh), _whole(model))
        if largest:
            raise Different(f"weights differ by {largest:.1e} after going on from a {kind} state dict")
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


# ---------------------------------------------------------------- from one number of processes to another


def _goes_on(subject: Subject, folder: Path, *, leg: int, replicas: bool) -> str:
    """Load what the processes before have saved, train, and save; the last hold their weights against the first's."""
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_model_state_dict, set_optimizer_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.checkpoint.state_dict_saver import save

    size = dist.get_world_size()
    mesh = (2, size // 2) if replicas else (size,)
    if leg == 0:
        model, optimizer = _built(subject, mesh)
        _train_in_legs(subject, model, optimizer, range(_LEGS))
        if dist.get_rank() == 0:
            torch.save(_whole(model), folder / "without stopping")
        else:
            _whole(model)
    model, optimizer = _built(subject, mesh)
    if leg:
        held: dict[str, Any] = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
        load(held, checkpoint_id=folder / f"leg-{leg - 1}")
        set_model_state_dict(model, held["model"])
        set_optimizer_state_dict(model, optimizer, held["optimizer"])
    _train_in_legs(subject, model, optimizer, range(leg, leg + 1))
    if leg < _LEGS - 1:
        saved = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
        save(saved, checkpoint_id=folder / f"leg-{leg}")
        return ""
    largest = _distance(_whole(model), torch.load(folder / "without stopping"))
    if not largest <= _ROUNDED:
        raise Different(f"weights differ by {largest:.1e} after going on with 4, 1 and 4 processes")
    return f"with 4, 1 and 4 processes {f'within {largest:.0e}' if largest else 'bit-equal'}"


_LEGS = 4
MOVES = [
    (2, partial(_goes_on, leg=0, replicas=False)),
    (4, partial(_goes_on, leg=1, replicas=True)),
    (1, partial(_goes_on, leg=2, replicas=False)),
    (4, partial(_goes_on, leg=3, replicas=False)),
]
"""FSDP2 on two processes, HSDP on four, one alone, FSDP2 on four."""


def _train_in_legs(subject: Subject, model: nn.Module, optimizer: Optimizer, legs: range) -> None:
    for leg in legs:
        _train(subject, model, optimizer, range(3 * leg, 3 * leg + 3))


# ---------------------------------------------------------------- what all of them need


def _built(subject: Subject, mesh: tuple[int, ...] | None) -> tuple[nn.Module, Optimizer]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = tiny_model()
    if mesh is not None:
        names = ("replicas", "shards") if len(mesh) > 1 else ("shards",)
        over = init_device_mesh("cpu", mesh, mesh_dim_names=names)
        for layer in model.model.layers:
            fully_shard(layer, mesh=over)
        fully_shard(model, mesh=over)
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
