"""What a model that is training answers to the same examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset
from transformers import Trainer

from anyoptim.comparing.tasks import Task

_EXAMPLES, _ROWS = 8, 256


class Outputs:
    """The logits of a model for a few examples, whenever they are asked for.

    Args:
        trainer: has the model.
        task: its held-out examples are taken, else those to train on.
    """

    def __init__(self, trainer: Trainer, task: Task) -> None:
        examples: Any = task.train if task.heldout is None else task.heldout
        few: Any = Subset(examples, range(min(len(examples), _EXAMPLES)))
        self._model: Any = trainer.model
        self._batch: Mapping[str, Any] = trainer._prepare_inputs(next(iter(trainer.get_test_dataloader(few))))

    @torch.no_grad()
    def __call__(self) -> Tensor | None:
        """Return (rows, classes) float32, some of the rows that have a label; ``None`` if the model gives no logits."""
        training = self._model.training
        self._model.eval()
        try:
            logits = getattr(self._model(**self._batch), "logits", None)
        finally:
            self._model.train(training)
        if not isinstance(logits, Tensor):
            return None
        labels = self._batch.get("labels")
        if isinstance(labels, Tensor) and labels.ndim > 1 and labels.shape == logits.shape[:-1]:
            labelled = labels != -100
            # a causal model predicts the next one's label
            logits = logits[labelled | labelled.roll(-1, dims=-1)]
        rows = logits.detach().float().reshape(-1, logits.shape[-1])
        return rows[:: max(len(rows) // _ROWS, 1)].clone()
