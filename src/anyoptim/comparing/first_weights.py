"""Weights that a fine-tune starts from: trained once on a machine, and kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset

_RATE = 3e-3


def trained_weights(
    make: Callable[[], nn.Module], train: Dataset[Any], *, batch_size: int, steps: int
) -> dict[str, Tensor]:
    """Return a model's weights after some steps of AdamW, from a file in the Hub's cache if it is there.

    Args:
        make: makes the model, a transformers one; its weights and the order of data are those of seed 0.
        train: examples, with a length.
        batch_size: examples of a step.
        steps: how many.
    """
    from safetensors.torch import load_file, save_file

    path = _path(make, train, batch_size, steps)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        being_written = path.with_name(f"{path.name}.{os.getpid()}")
        save_file(_train(make, train, batch_size, steps), being_written)
        being_written.replace(path)
    return load_file(path)


def _path(make: Callable[[], Any], train: Any, batch_size: int, steps: int) -> Path:
    """Return a place for each configuration, data and version of torch."""
    from huggingface_hub import cached_assets_path

    first = train[0]["input_ids"].tolist()
    what = [make().config.to_dict(), first, len(train), batch_size, steps, torch.__version__]
    name = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return Path(cached_assets_path("anyoptim", "tasks")) / f"{name}.safetensors"


def _train(make: Callable[[], nn.Module], train: Dataset[Any], batch_size: int, steps: int) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        order = torch.Generator().manual_seed(0)
        loader = DataLoader(train, batch_size, shuffle=True, drop_last=True, generator=order)
        optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.0)
        schedule = OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.1)
        done = 0
        while done < steps:
            for batch in loader:
                model(**batch).loss.backward()
                clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                done += 1
                if done == steps:
                    break
    return {name: each.detach().clone().contiguous() for name, each in model.state_dict().items()}
