"""Runs of the real Trainer: trains, resumes, saves plain values, accumulates."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyoptim.testing.checks.verdicts import ENOUGH, Failure, expect
from anyoptim.testing.subject import SAVED_AT, STEPS, Subject, moved, weights

_PLAIN = {"Tensor", "tuple", "int", "float", "str", "bool", "NoneType", "dtype"}


def trains(subject: Subject) -> str:
    """Trains through the real Trainer: the loss falls, at the constructor's own rate or at a usual one."""
    tried = []
    low, high = subject.spec.usual_lr or (subject.rate, subject.rate)
    for rate in dict.fromkeys((subject.rate, high, math.sqrt(low * high), low)):
        if rate == subject.rate:
            losses = _run(subject).losses
        else:
            with tempfile.TemporaryDirectory() as folder:
                losses = logged_losses(subject.train(Path(folder), learning_rate=rate, max_steps=3 * STEPS))
        first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
        tried.append(f"loss {first:.3f} to {last:.3f} in {len(losses)} steps at lr={rate:g}")
        if last < first:
            return tried[-1]
    raise Failure("; ".join(tried))


def resumes(subject: Subject) -> str:
    """Resumed half-way, ends with the very weights of the run that never stopped."""
    run = _run(subject)
    resumed = subject.train(run.folder, resume=True, seed=1, save_strategy="steps", save_steps=SAVED_AT)
    different = moved(run.weights, resumed.model)
    if different:
        largest = max(
            float((run.weights[name] - value).abs().max()) for name, value in resumed.model.state_dict().items()
        )
        raise Failure(f"{len(different)} weights differ, by {largest:.1e} at most")
    return f"bit-equal after {STEPS - SAVED_AT} further steps"


def loads_weights_only(subject: Subject) -> str:
    """Its checkpoint is tensors and plain values."""
    state = torch.load(_run(subject).folder / f"checkpoint-{SAVED_AT}" / "optimizer.pt", weights_only=True)
    strange = sorted(_kinds(state) - _PLAIN)
    expect(not strange, f"holds {', '.join(strange)}")
    return "tensors and plain values"


def accumulates_gradients(subject: Subject) -> str:
    """With gradient accumulation in the Trainer, weights move once for two micro-batches."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        moved: bool = False

        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self.before = weights(model)

        def on_substep_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self.moved |= bool(moved(self.before, model))

    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = subject.train(
            Path(folder),
            callbacks=[watch],
            gradient_accumulation_steps=2,
            per_device_train_batch_size=4,
            max_steps=ENOUGH,
        )
    expect(not watch.moved, "weights move in the middle of a step")
    expect(bool(moved(weights(subject.model()), trainer.model)), "nothing moves")
    return "one update for two micro-batches"


class _Run:
    """A run of the Trainer with a checkpoint half-way: of one subject, for the checks that look at it."""

    def __init__(self, subject: Subject) -> None:
        self._holder = tempfile.TemporaryDirectory()
        self.folder = Path(self._holder.name)
        trainer = subject.train(self.folder, save_strategy="steps", save_steps=SAVED_AT)
        self.losses = logged_losses(trainer)
        self.weights = weights(trainer.model)
        # resuming goes on from half-way
        for each in self.folder.glob(f"checkpoint-{STEPS}/*"):
            each.unlink()
        (self.folder / f"checkpoint-{STEPS}").rmdir()


def logged_losses(trainer: Any) -> list[float]:
    """Return the loss of each step that a Trainer logged."""
    return [float(row["loss"]) for row in trainer.state.log_history if "loss" in row]


def _run(subject: Subject) -> _Run:
    run = subject.kept.get("run")
    if not isinstance(run, _Run):
        run = subject.kept["run"] = _Run(subject)
    return run


def _kinds(value: object) -> set[str]:
    """Return the names of the types of all leaves; a tensor subclass is a tensor, but none may be a key."""
    if isinstance(value, dict):
        keys = {f"{type(key).__name__} as key" if isinstance(key, Tensor) else type(key).__name__ for key in value}
        return keys.union(*(_kinds(each) for each in value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return set[str]().union(*(_kinds(each) for each in value))
    return {"Tensor" if isinstance(value, Tensor) else type(value).__name__}
