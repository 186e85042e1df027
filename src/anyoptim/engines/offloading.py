"""Where state lies between steps: beside its parameter, in pinned host memory, or in memory-mapped files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

_Batch = TypeVar("_Batch")
_Fetched = TypeVar("_Fetched")


class Beside:
    """State lies where its parameter does."""

    elsewhere = False

    def fetched(self, held: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
        """Return some state where a step needs it."""
        return dict(held)

    def kept(self, value: Tensor, before: object) -> Tensor:
        """Return a tensor where it lies between steps.

        Args:
            value: as a step leaves it.
            before: what lay in its place.
        """
        return value

    def one_ahead(
        self, batches: Sequence[_Batch], fetch: Callable[[_Batch], _Fetched]
    ) -> Iterator[tuple[_Batch, _Fetched]]:
        """Yield batches with what is fetched for each; where that takes time, the next one while this one steps."""
        return ((batch, fetch(batch)) for batch in batches)


class Elsewhere(Beside):
    """State lies somewhere else than its parameter, and is fetched batch by batch."""

    elsewhere = True

    def fetched(self, held: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
        """Return copies on a device."""
        return {
            key: value.to(device, non_blocking=True, copy=True) if isinstance(value, Tensor) and value.dim() else value
            for key, value in held.items()
        }

    def kept(self, value: Tensor, before: object) -> Tensor:
        """Write a tensor over what lay in its place, or into new memory."""
        if not value.dim():
            return value
        fits = isinstance(before, Tensor) and before.shape == value.shape and before.dtype == value.dtype
        target = before if fits and self.is_here(before) else self.made(value.shape, value.dtype)
        assert isinstance(target, Tensor)
        return target.copy_(value, non_blocking=True)

    def is_here(self, tensor: object) -> bool:
        """Whether a tensor lies where this one keeps them."""
        raise NotImplementedError

    def made(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return a new tensor there."""
        raise NotImplementedError

    def one_ahead(
        self, batches: Sequence[_Batch], fetch: Callable[[_Batch], _Fetched]
    ) -> Iterator[tuple[_Batch, _Fetched]]:
        """Yield batches; see :class:`Beside`."""
        cuda = torch.cuda.is_available()
        side: torch.cuda.Stream | None = torch.cuda.Stream() if cuda else None  # type: ignore[no-untyped-call]  # torch's

        def fetch_aside(batch: _Batch) -> _Fetched:
            with torch.no_grad(), torch.cuda.stream(side):
                fetched = fetch(batch)
            if side is not None:
                side.synchronize()
            return fetched

        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(fetch_aside, batches[0]) if batches else None
            for number, batch in enumerate(batches):
                assert coming is not None
                fetched = coming.result()
                if number + 1 < len(batches):
                    coming = pool.submit(fetch_aside, batches[number + 1])
                yield batch, fetched
        if cuda:  # what is on its way back is there before anybody reads it
            torch.cuda.current_stream().synchronize()


class HostMemory(Elsewhere):
    """State lies in the host's memory, pinned where there is a GPU to send it to."""

    def is_here(self, tensor: object) -> bool:
        """Whether it lies in the host's memory."""
        return isinstance(tensor, Tensor) and tensor.device.type == "cpu"

    def made(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return a new tensor there."""
        return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=torch.cuda.is_available())


class Disk(Elsewhere):
    """State lies in files that memory is mapped to.

    Nobody but this process has a name for them, so nothing stays when it ends. What must outlive it is a checkpoint.

    Args:
        folder: where the files are; the system's for temporary files if empty.
    """

    def __init__(self, folder: str = "") -> None:
        self.folder = folder

    def is_here(self, tensor: object) -> bool:
        """Whether it lies in a file."""
        return isinstance(tensor, Tensor) and bool(tensor.untyped_storage().filename)

    def made(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return a new tensor there."""
        if not shape.numel():
            return torch.empty(shape, dtype=dtype)
        if self.folder:
            os.makedirs(self.folder, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="anyoptim-", dir=self.folder or None)
        os.close(handle)
        try:
            return torch.from_file(name, shared=True, size=shape.numel(), dtype=dtype).view(shape)
        finally:
            os.unlink(name)


def place_of(where: str, folder: str = "") -> Beside:
    """Return where state lies, by its name: ``none``, ``cpu`` or ``disk``."""
    return Disk(folder) if where == "disk" else HostMemory() if where == "cpu" else Beside()
