"""How far an optimizer moves the weights of a model in a few dozen steps, parameter by parameter."""

from __future__ import annotations

import contextlib
import io
import math
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from anyoptim.comparing.race import QUIET
from anyoptim.comparing.tasks import Task
from anyoptim.errors import OptimError
from anyoptim.integrations.transformers import enable
from anyoptim.names.lookup import optimizer_info
from anyoptim.names.role import Role
from anyoptim.planning.plan import Plan, plan
from anyoptim.planning.suggestions import suited_arguments
from anyoptim.text import said

OnStep = Callable[[int, float], None]
"""Called after each step with the step's number, from 1, and its loss."""

WARMUP = 0.1
"""The share of steps in which the rate rises: what is measured begins after it."""
WINDOWS = 3
"""What follows is as many windows of steps. A window's change counts, since what noise moves to and fro cancels in it:
single updates are larger without momentum, and move a model no further."""
_ITERATIONS = 12


@dataclass(frozen=True)
class Sizes:
    """How one parameter moved, without weight decay.

    Args:
        name: the parameter's.
        role: what it is for.
        elements: how many it has.
        in_fallback: whether the fallback of a hybrid steps it.
        rms: of its first values.
        norm: their largest singular value; of what is no matrix the RMS.
        moved_rms: RMS of the change over each window of steps.
        moved_norm: the same as ``norm``, of these changes.
    """

    name: str
    role: Role
    elements: int
    in_fallback: bool
    rms: float
    norm: float
    moved_rms: tuple[float, ...]
    moved_norm: tuple[float, ...]


@dataclass(frozen=True)
class Trial:
    """One short training.

    Args:
        name: the optimizer.
        rate: its learning rate, after the warmup.
        seed: of the weights and of the order of data.
        losses: of each step.
        sizes: of each trainable parameter.
    """

    name: str
    rate: float
    seed: int
    losses: tuple[float, ...]
    sizes: tuple[Sizes, ...]


class DivergedError(OptimError):
    """The loss of a trial is no number."""


def try_rate(
    name: str,
    rate: float,
    task: Task,
    *,
    steps: int,
    seed: int = 0,
    optim_args: str = "",
    fields: Mapping[str, object] | None = None,
    on_step: OnStep = lambda *_: None,
) -> Trial:
    """Train a new model for a few steps through the real Trainer and measure its updates.

    The rate rises for a tenth of the steps and stays: what is measured is the optimizer, not the schedule.

    Args:
        name: a registered name.
        rate: its learning rate.
        task: model and data.
        steps: how many.
        seed: of the weights and of the order of data: two optimizers with one seed start alike and see the same.
        optim_args: what else is said to it.
        fields: further ones of TrainingArguments.
        on_step: told about each step.

    Raises:
        OptimError: it cannot train this model, or its loss is no number.
        MissingPackageError: its package is not installed.
    """
    optimizer_info(name).default.load()
    try:
        with enable(), tempfile.TemporaryDirectory() as folder, _quiet():
            set_seed(seed)
            model = task.model()
            width = getattr(getattr(model, "config", None), "hidden_size", None)
            suited = suited_arguments(name, learning_rate=rate, width=width, optim_args=optim_args)
            arguments = _arguments({**suited, **(fields or {})}, task, folder, steps=steps, seed=seed)
            trainer = Trainer(model, arguments, train_dataset=task.train, data_collator=task.collator)
            watch = _Watch(plan(name, model, arguments), steps, on_step)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(watch)
            trainer.train()
    except OptimError:
        raise
    except Exception as error:  # whatever the model, the data or a package has to say
        raise OptimError(f"{name} cannot train {task.name}: {type(error).__name__}: {said(error)}") from error
    if watch.diverged:
        raise DivergedError(
            f"{name} at lr {rate:g}: the loss is no number after {len(watch.losses)} steps; take a lower rate."
        )
    return Trial(name, rate, seed, tuple(watch.losses), watch.sizes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what packages print and warn of."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _arguments(suited: dict[str, object], task: Task, folder: str, *, steps: int, seed: int) -> TrainingArguments:
    values: dict[str, Any] = {
        **suited,
        "output_dir": folder,
        "max_steps": steps,
        "seed": seed,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": math.ceil(steps * WARMUP),
        "weight_decay": 0.0,
        "per_device_train_batch_size": task.batch_size,
        **QUIET,
    }
    return TrainingArguments(**values)


class _Watch(TrainerCallback):
    """Measures each parameter where a window of steps ends."""

    def __init__(self, planned: Plan, steps: int, on_step: OnStep) -> None:
        self.losses: list[float] = []
        self.diverged = False
        self._routes = planned.routing.routes if planned.routing else ()
        self._hybrid = planned.spec.fallback is not None
        self._on_step = on_step
        begin = math.ceil(steps * WARMUP)
        self._moments = {begin + (steps - begin) * each // WINDOWS for each in range(WINDOWS + 1)}
        self._first = {each.name: (rms(each.parameter), norm(each.parameter)) for each in self._routes}
        self._before: dict[str, Tensor] = {}
        self._moved: dict[str, list[tuple[float, float]]] = {each.name: [] for each in self._routes}

    @property
    def sizes(self) -> tuple[Sizes, ...]:
        """What was measured."""
        return tuple(
            Sizes(
                each.name,
                each.role,
                each.place.numel,
                self._hybrid and not each.is_target,
                *self._first[each.name],
                tuple(size for size, _ in self._moved[each.name]),
                tuple(size for _, size in self._moved[each.name]),
            )
            for each in self._routes
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure what the window that ends here has changed."""
        if state.global_step not in self._moments:
            return
        for each in self._routes:
            weights = each.parameter.detach().clone()
            if each.name in self._before:
                change = weights - self._before[each.name]
                self._moved[each.name].append((rms(change), norm(change)))
            self._before[each.name] = weights

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Keep the loss, and end what has diverged."""
        if not logs or "loss" not in logs:
            return
        self.losses.append(float(logs["loss"]))
        if not math.isfinite(self.losses[-1]):
            self.diverged = control.should_training_stop = True
            return
        self._on_step(state.global_step, self.losses[-1])


def rms(values: Tensor) -> float:
    """Return the root of the mean square of all values; 0 if there are none."""
    if not values.numel():
        return 0.0
    return float(values.detach().float().square().mean().sqrt())


@torch.no_grad()
def norm(values: Tensor) -> float:
    """Return the largest singular value of a matrix, and the RMS of anything else.

    It is found by power iteration, so it comes out a few percent low where many singular values are nearly as large.

    Args:
        values: (m, n); a stack of matrices (…, m, n), of which the median counts; a kernel (out, in, …) of more
            dimensions counts as stacks, too.
    """
    if values.ndim < 2 or not values.numel():
        return rms(values)
    stack = values.detach().float().reshape(-1, *values.shape[-2:])
    start = torch.randn(stack.shape[-1], 1, generator=torch.Generator().manual_seed(0)).to(stack)
    vector = start.expand(len(stack), -1, -1)
    for _ in range(_ITERATIONS):
        vector = stack.mT @ (stack @ functional.normalize(vector, dim=1))
    return float(statistics.median(vector.norm(dim=(1, 2)).sqrt().tolist()))
