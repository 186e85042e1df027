"""What a Trainer reports of the optimizer is what ran: in logs, in ``trainer_state.json`` and in the model card."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from anyoptim.building.monitored import monitor_of
from anyoptim.building.records import built, describe, record_of
from anyoptim.engines.fused_backward import FusedBackward
from anyoptim.engines.readings import PREFIX
from anyoptim.errors import MissingPackageError
from anyoptim.integrations.patching import replace
from anyoptim.names import lookup, spelling
from anyoptim.text import plain


class OptimizerRecord(TrainerCallback):
    """Writes into the trainer's state which optimizer runs, with its hyperparameters, and says if it is another one.

    Where the state of callbacks is kept: the one place in ``trainer_state.json`` that every version of transformers
    reads back whatever stands there. Attributes are what the record holds.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Describe the optimizer, and let its monitor measure the steps that are logged."""
        state.stateful_callbacks[type(self).__name__] = {"args": {}, "attributes": _described(optimizer)}
        monitor = monitor_of(optimizer)
        if monitor is not None and args.logging_strategy == "steps":
            monitor.follow(_logged(args, state))
        if not _is_the_named_one(args, optimizer):
            warnings.warn(
                f"optim={spelling.normalise(args.optim)!r} has no effect: {_title(optimizer)} trains, which the Trainer"
                " was given, or which a subclass of it makes.",
                stacklevel=2,
            )


def _logged(args: Any, state: Any) -> Callable[[int], bool]:
    """Return whether a step is logged, by its number from here on."""
    done = state.global_step

    def is_logged(step: int) -> bool:
        step += done
        return step % state.logging_steps == 0 or (step == 1 and args.logging_first_step)

    return is_logged


def _described(optimizer: Any) -> dict[str, object]:
    """Return what runs as plain values; of a stranger's, its class and the values of its first group."""
    described = describe(optimizer)
    if described:
        return described
    group = optimizer.param_groups[0]
    return {
        "class": _class_of(optimizer),
        "hyperparameters": {
            **{key: plain(value) for key, value in group.items() if key not in ("params", "initial_lr")},
            **({"lr": plain(group.get("initial_lr", group["lr"]))} if "lr" in group else {}),
        },
    }


def _title(optimizer: Any) -> str:
    record = record_of(optimizer)
    return _class_of(optimizer) if record is None else str(record.writer)


def _class_of(optimizer: Any) -> str:
    cls = type(_inside(optimizer))
    return f"{cls.__module__}:{cls.__qualname__}"


def _inside(optimizer: Any) -> Any:
    return getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it


def _is_the_named_one(args: Any, optimizer: Any) -> bool:
    """Whether what trains is what ``optim=`` says, as far as that says anything."""
    unset = {each.default for each in fields(args) if each.name == "optim"}
    if args.optim in unset or not lookup.is_known(args.optim):
        return True
    named = lookup.optimizer_info(args.optim)
    record = record_of(optimizer)
    if record is not None:
        return record.writer.name == named.name
    try:
        return any(type(_inside(optimizer)) is each.load() for each in named.implementations)
    except MissingPackageError:
        return False


def wrap_reports(undo: ExitStack) -> None:
    """Wrap the Trainer's logs and model cards; our log lines go where transformers' own go."""
    from transformers import Trainer, modelcard

    logger = logging.getLogger("anyoptim")
    undo.callback(setattr, logger, "parent", logger.parent)
    logger.parent = logging.getLogger("transformers")

    log = Trainer.log

    @functools.wraps(log)
    def log_what_happened(self: Any, logs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        optimizer: Any = built(self.optimizer)
        if hasattr(optimizer, "report_losses"):
            optimizer.report_losses(train_loss=logs.get("loss"), eval_loss=_evaluation_loss(self, logs))
        facade = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
        if isinstance(facade, FusedBackward) and logs.get("grad_norm") == 0:
            del logs["grad_norm"]  # of gradients that are gone
        monitor = monitor_of(self.optimizer)
        if monitor is not None and "loss" in logs:
            logs.update(monitor.news())
        return log(self, logs, *args, **kwargs)

    replace(undo, Trainer, "log", log_what_happened)

    get_learning_rate: Callable[..., float] = Trainer._get_learning_rate

    @functools.wraps(get_learning_rate)
    def get_applied_learning_rate(self: Any) -> float:
        record = record_of(self.optimizer)
        if record is None or record.applied_lr == "lr":
            return get_learning_rate(self)
        return float(self.optimizer.param_groups[0][record.applied_lr])

    replace(undo, Trainer, "_get_learning_rate", get_applied_learning_rate)

    extract: Callable[..., dict[str, Any]] = modelcard.extract_hyperparameters_from_trainer

    @functools.wraps(extract)
    def extract_what_ran(trainer: Any) -> dict[str, Any]:
        hyperparameters = extract(trainer)
        if trainer.optimizer is not None:
            values: Any = _described(trainer.optimizer)["hyperparameters"]
            text = ", ".join(f"{name}={value}" for name, value in values.items())
            hyperparameters["optimizer"] = f"{_title(trainer.optimizer)} with {text}"
        return hyperparameters

    replace(undo, modelcard, "extract_hyperparameters_from_trainer", extract_what_ran)
    for callback in (ProgressCallback, PrinterCallback):
        _keep_off_the_console(undo, callback)


def _keep_off_the_console(undo: ExitStack, callback: type[TrainerCallback]) -> None:
    """Let a callback print a line without what a monitor has measured: hundreds of numbers."""
    on_log: Callable[..., Any] = callback.on_log

    @functools.wraps(on_log)
    def on_log_without(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> Any:
        if logs is not None and any(key.startswith(PREFIX) for key in logs):
            logs = {key: value for key, value in logs.items() if not key.startswith(PREFIX)}
        return on_log(self, args, state, control, logs=logs, **kwargs)

    replace(undo, callback, "on_log", on_log_without)


def _evaluation_loss(trainer: Any, logs: dict[str, Any]) -> float | None:
    """Return the loss that an evaluation logs; of several sets, which are logged one by one, the mean of the latest."""
    if not isinstance(trainer.eval_dataset, dict):
        return logs.get("eval_loss")
    keys = [f"eval_{name}_loss" for name in trainer.eval_dataset]
    if not any(key in logs for key in keys):
        return None
    latest: dict[str, float] = {}
    for row in (*trainer.state.log_history, logs):
        latest.update({key: row[key] for key in keys if key in row})
    return sum(latest.values()) / len(latest)
