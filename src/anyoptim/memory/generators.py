"""The random numbers of a process, which planning leaves as they are."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def generators_kept() -> Iterator[None]:
    """Put Python's, numpy's and torch's generators back, whatever a package draws from meanwhile."""
    numpy = sys.modules.get("numpy")  # where it is not imported, nobody counts on its state
    state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(state)
        if numpy:
            numpy.random.set_state(numpy_state)
