"""One short run of one optimizer through the real Trainer, measured."""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    PretrainedConfig,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from anyoptim.integrations.models import make_model
from anyoptim.integrations.transformers import enable
from anyoptim.memory import measured_state_bytes
from anyoptim.registry import optimizer_info

if TYPE_CHECKING:
    from anyoptim.integrations.stdlib_text import Bytes

OnStep = Callable[[int, float], None]
"""Called after each step with the step's number, from 1, and its loss."""


@dataclass(frozen=True)
class Run:
    """What one optimizer did.

    Args:
        name: the optimizer.
        implementation: which of its implementations ran.
        package: where that comes from.
        learning_rate: the peak one.
        losses: training loss of each step, nats per byte.
        heldout_loss: after training, on text that was not trained on, nats per byte.
        step_seconds: median duration of a training step: forward, backward and update.
        state_bytes: optimizer state after training.
    """

    name: str
    implementation: str
    package: str
    learning_rate: float
    losses: tuple[float, ...]
    heldout_loss: float
    step_seconds: float
    state_bytes: int


def demo_arguments(name: str, config: PretrainedConfig, steps: int, output_dir: str) -> TrainingArguments:
    """Return TrainingArguments that suit an optimizer, decided by its spec's data alone.

    The learning rate is the top of the usual range, as a small model trained from scratch takes; a
    schedule-free optimizer gets a constant schedule, any other a cosine one; a low-rank one projects
    every linear layer to at most a quarter of its width; a hybrid has the top of both ranges.
    """
    spec = optimizer_info(name)
    traits = spec.traits
    rank = next((each.default for each in spec.hyperparameters if each.name == "rank"), None)
    largest_rank = config.hidden_size // 4
    optim_args = [f"rank={largest_rank}"] if isinstance(rank, int) and rank > largest_rank else []
    if spec.fallback is not None and spec.fallback.usual_lr:
        optim_args.append(f"fallback_lr={spec.fallback.usual_lr[1]}")
    return TrainingArguments(
        output_dir=output_dir,
        optim=name,
        optim_args=",".join(optim_args) or None,
        optim_target_modules="all-linear" if traits.names_targets else None,
        learning_rate=spec.usual_lr[1] if spec.usual_lr else 1e-3,
        lr_scheduler_type="constant" if traits.schedule_free else "cosine",
        warmup_steps=steps // 10,
        max_grad_norm=0.0 if spec.fused_backward or traits.clips_updates else 1.0,
        max_steps=steps,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=64,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def race_one(
    name: str, config: PretrainedConfig, train: Bytes, heldout: Bytes, *, steps: int, on_step: OnStep, seed: int = 0
) -> Run:
    """Train a new model with one optimizer and measure it.

    Args:
        name: a registered name.
        config: of the model; every run with one seed starts from the same weights.
        train: training examples.
        heldout: examples for the held-out loss.
        steps: training steps.
        on_step: told about each step.
        seed: for weights and data order.

    Raises:
        MissingPackageError: the optimizer's package is not installed.
    """
    optimizer_info(name).default.load()
    with enable(), tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        set_seed(seed)
        model = make_model(config)
        args = demo_arguments(name, config, steps, folder)
        trainer = Trainer(model, args, train_dataset=train, eval_dataset=heldout)
        trainer.remove_callback(PrinterCallback)
        watch = _Watch(on_step)
        trainer.add_callback(watch)
        trainer.train()
        heldout_loss = float(trainer.evaluate()["eval_loss"])
        optimizer: Any = trainer.optimizer
        implementation = optimizer_info(name).default
        return Run(
            name=name,
            implementation=implementation.name,
            package=implementation.package,
            learning_rate=args.learning_rate,
            losses=tuple(watch.losses),
            heldout_loss=heldout_loss,
            step_seconds=statistics.median(watch.seconds),
            state_bytes=measured_state_bytes(getattr(optimizer, "optimizer", optimizer)),
        )


class _Watch(TrainerCallback):
    """Collects the loss and the duration of each step."""

    def __init__(self, on_step: OnStep) -> None:
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self._on_step = on_step
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._began)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Keep the training loss; the log at the end of training has none."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
            self._on_step(state.global_step, self.losses[-1])
