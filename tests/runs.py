"""Runs of the real Trainer in processes of their own, for tests that stop, resume and kill them."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from toys import arguments, data, llama, needs_of, same_weights, train, weights
from transformers import Trainer, TrainerCallback

import anyoptim

STEPS, STOP = 8, 4


def fields_of(name: str, **changed: Any) -> dict[str, Any]:
    """A run with everything that a checkpoint must bring back: schedule, accumulation, weight decay."""
    needs = needs_of(name)
    return {
        **needs,
        "optim": name,
        "lr_scheduler_type": "cosine" if needs["lr_scheduler_type"] != "constant" else "constant",
        "warmup_steps": 2,
        "weight_decay": 0.1,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 4,
        "max_steps": STEPS,
        **changed,
    }


def run(folder: Path, fields: dict[str, Any], cls: type[Trainer] = Trainer, **kwargs: Any) -> Trainer:
    return train(llama(), arguments(folder, **fields), cls, **kwargs)


def resume(folder: str, fields: dict[str, Any], checkpoint: str | bool = True) -> None:
    """Resume with a model of other random weights and save what comes out; for a process of its own."""
    torch.set_num_threads(1)
    with anyoptim.enable(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(llama(seed=1), arguments(Path(folder), **fields), train_dataset=data())
        trainer.train(resume_from_checkpoint=checkpoint)
        torch.save(weights(trainer.model), Path(folder, "resumed.pt"))


def resumes_as(folder: Path, expected: dict[str, torch.Tensor]) -> bool:
    return same_weights(torch.load(folder / "resumed.pt"), expected)


class KillAt(TrainerCallback):
    """Kills its own process, as ``kill -9`` does, when a step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class SayStarted(TrainerCallback):
    """Says that training has begun, by a file."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        Path(args.output_dir, "started").touch()


def until_killed(folder: str, fields: dict[str, Any]) -> None:
    """Train as usual; for a process of its own, which somebody kills."""
    torch.set_num_threads(1)
    with anyoptim.enable(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(Path(folder), fields, callbacks=[SayStarted()])
        Path(folder, "finished").touch()


class KilledInOptimizer(Trainer):
    """Is killed in the second save, half of ``optimizer.pt`` written."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.state.global_step > STOP:
            path = Path(output_dir, "optimizer.pt")
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)


class KilledInWeights(Trainer):
    """Is killed in the second save, half of the weights written."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if self.state.global_step > STOP:
            path = Path(str(output_dir), "model.safetensors")
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)


class KilledInState(Trainer):
    """Is killed in the second save, half of ``trainer_state.json`` written."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.state.global_step > STOP:
            path = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}", "trainer_state.json")
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)


class FullDisk(TrainerCallback):
    """After the first save, lets no file grow as large as the optimizer's state."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state_size = Path(args.output_dir, f"checkpoint-{state.global_step}", "optimizer.pt").stat().st_size
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (state_size - 4096, resource.RLIM_INFINITY))


class Slowly(Trainer):
    """Leaves time for a signal between the backward pass and the step, and says so."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.state.global_step:
            Path(self.args.output_dir, "step").touch()
            time.sleep(0.05)
        return loss


def fail(kind: str, folder: str, fields: dict[str, Any]) -> None:
    """Train until it fails in a given way; for a process of its own."""
    torch.set_num_threads(1)
    with anyoptim.enable(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "training":
            run(Path(folder), fields, callbacks=[KillAt(STOP + 1)])
        elif kind == "disk full":
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # the traceback is expected; the process ends here
            run(Path(folder), fields, callbacks=[FullDisk()])
        else:
            run(Path(folder), fields, KILLED[kind])


KILLED: dict[str, type[Trainer]] = {
    "saving weights": KilledInWeights,
    "saving optimizer": KilledInOptimizer,
    "saving state": KilledInState,
}
FAILURES = ["training", "disk full", *KILLED]


def until_terminated(folder: str, fields: dict[str, Any]) -> None:
    """Train with the Trainer's own emergency checkpoint; for a process of its own."""
    torch.set_num_threads(1)
    with anyoptim.enable(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Slowly(llama(), arguments(Path(folder), **fields, enable_jit_checkpoint=True), train_dataset=data())
        for callback in trainer.callback_handler.callbacks:
            if hasattr(callback, "jit_manager"):
                callback.jit_manager.kill_wait = 0
        trainer.train()
