"""Real text that every machine has: the source of Python's own standard library and its manual, byte by byte."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

VOCABULARY = 256


class Example(TypedDict):
    """One training example: ``length`` bytes (int64), to be predicted one after the other."""

    input_ids: Tensor
    labels: Tensor


class Bytes(Dataset[Example]):
    """Windows of ``length`` bytes over a text, without overlap.

    Args:
        text: any bytes.
        length: bytes per example.
    """

    def __init__(self, text: bytes, length: int) -> None:
        count = len(text) // length
        self._windows = torch.frombuffer(bytearray(text[: count * length]), dtype=torch.uint8).view(count, length)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Example:
        window = self._windows[index].long()
        return {"input_ids": window, "labels": window}


def stdlib_bytes(length: int, *, train_bytes: int = 2_000_000, heldout_bytes: int = 50_000) -> tuple[Bytes, Bytes]:
    """Return a training set and a held-out set from different modules of the standard library.

    Args:
        length: bytes per example.
        train_bytes: size of the training text.
        heldout_bytes: size of the held-out text.
    """
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    heldout = sources[::10]
    train = [source for source in sources if source not in set(heldout)]
    return Bytes(_read(train, train_bytes), length), Bytes(_read(heldout, heldout_bytes), length)


def prose_bytes(length: int, *, train_bytes: int = 400_000, heldout_bytes: int = 50_000) -> tuple[Bytes, Bytes]:
    """Return a training set and a held-out set from the language reference that ``help()`` shows: English prose.

    Args:
        length: bytes per example.
        train_bytes: size of the training text, from the beginning.
        heldout_bytes: size of the held-out text, from the end.
    """
    text = (Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data" / "topics.py").read_bytes()
    return Bytes(text[:train_bytes], length), Bytes(text[-heldout_bytes:], length)


def _read(sources: list[Path], enough: int) -> bytes:
    text = b""
    for source in sources:
        if len(text) >= enough:
            break
        text += source.read_bytes()
    return text[:enough]
