"""What a Trainer reports of the optimizer is what ran: in logs, in ``trainer_state.json`` and in the model card."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback

from anyoptim.building.records import built, describe, record_of
from anyoptim.engines.fused_backward import FusedBackward
from anyoptim.integrations.patching import replace


class OptimizerRecord(TrainerCallback):
    """Writes into the trainer's state which optimizer runs, with its hyperparameters.

    Where the state of callbacks is kept: the one place in ``trainer_state.json`` that every version of transformers
    reads back whatever stands there. Attributes are what the record holds.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Describe the optimizer."""
        described = describe(optimizer)
        if described:
            state.stateful_callbacks[type(self).__name__] = {"args": {}, "attributes": described}


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
        described = describe(trainer.optimizer)
        if described:
            values: Any = described["hyperparameters"]
            record = record_of(trainer.optimizer)
            assert record is not None
            text = ", ".join(f"{name}={value}" for name, value in values.items())
            hyperparameters["optimizer"] = f"{record.writer} with {text}"
        return hyperparameters

    replace(undo, modelcard, "extract_hyperparameters_from_trainer", extract_what_ran)


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
