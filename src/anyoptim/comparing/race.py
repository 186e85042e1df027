"""One run of one optimizer through the real Trainer, measured."""

from __future__ import annotations

import contextlib
import io
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from anyoptim.comparing.tasks import Task
from anyoptim.integrations.transformers import enable
from anyoptim.memory.state import measured_state_bytes
from anyoptim.names.lookup import optimizer_info
from anyoptim.planning.suggestions import suited_arguments

OnStep = Callable[[int, float], None]
"""Called after each step with the step's number, from 1, and its loss."""

QUIET: dict[str, Any] = {
    "logging_steps": 1,
    "logging_nan_inf_filter": False,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}
"""What TrainingArguments say of a run that is watched: every loss as it is, and nothing written."""
_EVALUATIONS = 40


@dataclass(frozen=True)
class Entry:
    """A run that is wanted: two equal ones would give the same result.

    Args:
        task: its name.
        name: the optimizer.
        optim_args: the text, also what the task's size made of it.
        learning_rate: the highest of its schedule.
        seed: for weights and data order.
        steps: training steps.
        batch_size: examples of a step.
        versions: of what it depends on.
    """

    task: str
    name: str
    optim_args: str
    learning_rate: float
    seed: int
    steps: int
    batch_size: int
    versions: dict[str, str] = field(hash=False, default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What one optimizer did.

    Args:
        entry: what was wanted.
        implementation: which of its implementations ran.
        package: where that comes from.
        losses: training loss of each step.
        seconds: time from the start to the end of each step, evaluations left out.
        heldout_loss: after training, on what was not trained on; of a task that holds nothing out, the mean of the
            last tenth of the training losses; ``None`` after an error.
        accuracies: step and held-out accuracy, for tasks that have one.
        step_seconds: median duration of a step: forward, backward and update.
        state_bytes: optimizer state after training.
        error: why it ended early, if it did.
    """

    entry: Entry
    implementation: str
    package: str
    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    heldout_loss: float | None
    accuracies: tuple[tuple[int, float], ...]
    step_seconds: float
    state_bytes: int
    error: str = ""

    @property
    def score(self) -> float | None:
        """What is to be low: the share of wrong answers in tasks that have an accuracy, else the held-out loss.

        Where understanding comes late, a loss on what is held out grows before it falls, and is lowest untrained.
        """
        if self.heldout_loss is None:
            return None
        return 1 - self.accuracies[-1][1] if self.accuracies else self.heldout_loss


def arguments_of(entry: Entry, task: Task, output_dir: str) -> TrainingArguments:
    """Return TrainingArguments that suit an optimizer, decided by its spec's data alone, and the same for all else."""
    suited = suited_arguments(entry.name, learning_rate=entry.learning_rate, optim_args=entry.optim_args)
    along_the_way = {"eval_strategy": "steps", "eval_steps": max(entry.steps // _EVALUATIONS, 1)}
    values: dict[str, Any] = {
        "output_dir": output_dir,
        "warmup_steps": entry.steps // 10,
        "max_steps": entry.steps,
        "weight_decay": task.weight_decay,
        "seed": entry.seed,
        "per_device_train_batch_size": task.batch_size,
        "per_device_eval_batch_size": 4 * task.batch_size,
        **QUIET,
        **(along_the_way if task.accuracy_at is not None else {}),
        **suited,
    }
    return TrainingArguments(**values)


def race_one(entry: Entry, task: Task, on_step: OnStep) -> Run:
    """Train a new model with one optimizer and measure it; what it raises becomes the run's error.

    Args:
        entry: what to run; every run with one seed starts from the same weights and sees the same batches.
        task: the task that it names.
        on_step: told about each step.

    Raises:
        MissingPackageError: the optimizer's package is not installed.
    """
    implementation = optimizer_info(entry.name).default
    implementation.load()
    watch = _Watch(on_step)
    heldout, state_bytes, error = None, 0, ""
    try:
        with enable(), tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            set_seed(entry.seed)
            trainer = Trainer(
                task.model(),
                arguments_of(entry, task, folder),
                train_dataset=task.train,
                eval_dataset=task.heldout,
                data_collator=task.collator,
                compute_metrics=_accuracy if task.accuracy_at is not None else None,
                preprocess_logits_for_metrics=_answers_at(task.accuracy_at) if task.accuracy_at is not None else None,
            )
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(watch)
            trainer.train()
            optimizer: Any = trainer.optimizer
            state_bytes = measured_state_bytes(getattr(optimizer, "optimizer", optimizer))
            error = watch.error
            if not error:
                heldout = float(trainer.evaluate()["eval_loss"]) if task.heldout is not None else watch.last_losses
    except Exception as problem:  # one optimizer's failure is a result, too
        error = f"{type(problem).__name__}: {str(problem).partition(chr(10))[0]}"
    return Run(
        entry,
        implementation.name,
        implementation.package,
        tuple(watch.losses),
        tuple(watch.ends),
        heldout if heldout is not None and math.isfinite(heldout) else None,
        tuple(watch.accuracies),
        statistics.median(watch.seconds) if watch.seconds else 0.0,
        state_bytes,
        error or ("" if heldout is not None and math.isfinite(heldout) else "the held-out loss is not finite"),
    )


class _Watch(TrainerCallback):
    """Collects what a run shows, and ends one that has diverged."""

    def __init__(self, on_step: OnStep) -> None:
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.ends: list[float] = []
        self.accuracies: list[tuple[int, float]] = []
        self.error = ""
        self._on_step = on_step
        self._began = 0.0

    @property
    def last_losses(self) -> float:
        """The mean of the last tenth."""
        return statistics.fmean(self.losses[-max(len(self.losses) // 10, 1) :])

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock."""
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.seconds.append(time.perf_counter() - self._began)
        self.ends.append(round((self.ends[-1] if self.ends else 0.0) + self.seconds[-1], 4))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Keep the training loss and the accuracy; the log at the end of training has neither."""
        last = self.accuracies[-1][0] if self.accuracies else 0
        if logs and "eval_accuracy" in logs and state.global_step > last:
            self.accuracies.append((int(state.global_step), round(float(logs["eval_accuracy"]), 4)))
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            self.error = f"diverged at step {state.global_step}"
            control.should_training_stop = True
            return
        self.losses.append(round(loss, 5))
        self._on_step(state.global_step, loss)


def _answers_at(position: int) -> Callable[[Any, Any], Any]:
    def answers(logits: Any, labels: Any) -> Any:
        return (logits[0] if isinstance(logits, tuple) else logits)[:, position - 1].argmax(-1)

    return answers


def _accuracy(found: Any) -> dict[str, float]:
    return {"accuracy": float((found.predictions == found.label_ids[:, -1]).mean())}
