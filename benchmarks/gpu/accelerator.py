"""What is asked of a device: CUDA's own answer, and on a CPU the nearest that shows the same in the code around it."""

from __future__ import annotations

import gc
import platform
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Action = Callable[[], object]


class Accelerator(ABC):
    """A device to measure on.

    Args:
        device: as torch names it.
    """

    def __init__(self, device: str) -> None:
        self.device = device

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is, for a person."""

    @property
    @abstractmethod
    def has_graphs(self) -> bool:
        """Whether steps can be captured."""

    @property
    @abstractmethod
    def pair(self) -> tuple[str, str]:
        """Two devices that one model can be on."""

    @abstractmethod
    def seconds(self, action: Action) -> float:
        """Run and time it, until the device is done."""

    @abstractmethod
    def no_waiting(self, on_host: Callable[[Tensor], bool]) -> AbstractContextManager[None]:
        """Raise where the program waits for a value that the device computes.

        Args:
            on_host: whether a tensor would be in the host's memory on a machine where not everything is.
        """

    @abstractmethod
    def captured(self, step: Action) -> Action | None:
        """Capture a step in a graph and return what replays it, or ``None`` where there are no graphs."""

    @abstractmethod
    def tidy(self) -> None:
        """Let go of the memory of what is no longer used."""

    @abstractmethod
    def allocated(self, counted: Callable[[], int]) -> int:
        """Return the bytes that are in use; ``counted`` knows them where nobody measures."""

    @abstractmethod
    def peak(self, action: Action, counted: Callable[[], int]) -> int:
        """Return the most bytes that were in use while it ran."""

    def medians(self, prepared: Mapping[str, Callable[[], Action]], repeats: int) -> dict[str, float]:
        """Return median seconds, all in turn, after one round to warm up.

        Args:
            prepared: each makes ready what is not timed, and returns what is.
            repeats: rounds.
        """
        taken: dict[str, list[float]] = {name: [] for name in prepared}
        for _ in range(repeats + 1):
            for name, prepare in prepared.items():
                taken[name].append(self.seconds(prepare()))
        return {name: statistics.median(each[1:]) for name, each in taken.items()}

    def bandwidth(self, size: int) -> float:
        """Return the bytes a second that a copy of ``size`` bytes reads and writes."""
        source = torch.ones(size // 4, device=self.device)
        target = torch.empty_like(source)
        return 2 * size / self.medians({"copy": lambda: lambda: target.copy_(source)}, 20)["copy"]

    def link(self, size: int) -> float:
        """Return the bytes a second that a copy of ``size`` bytes brings from the host's pinned memory."""
        source = torch.ones(size // 4, pin_memory=torch.cuda.is_available())
        target = torch.empty_like(source, device=self.device)
        return size / self.medians({"copy": lambda: lambda: target.copy_(source, non_blocking=True)}, 20)["copy"]


class Cpu(Accelerator):
    """Runs the code of every section where there is no GPU."""

    @property
    def name(self) -> str:
        """Its architecture: all that can be said of any."""
        return f"{platform.machine()} CPU"

    @property
    def has_graphs(self) -> bool:
        """No."""
        return False

    @property
    def pair(self) -> tuple[str, str]:
        """The one there is, twice."""
        return self.device, self.device

    def seconds(self, action: Action) -> float:
        """Take the time on the clock."""
        began = time.perf_counter()
        action()
        return time.perf_counter() - began

    def no_waiting(self, on_host: Callable[[Tensor], bool]) -> AbstractContextManager[None]:
        """Refuse every operation whose result depends on a tensor's values in a way that Python sees."""
        return _Waits(on_host)

    def captured(self, step: Action) -> Action | None:
        """Let the step believe that it is captured."""
        with (
            mock.patch.object(torch.cuda, "is_available", lambda: True),
            mock.patch.object(torch.cuda, "is_current_stream_capturing", lambda: True),
        ):
            step()
        return None

    def tidy(self) -> None:
        """Leave it to Python: what is tried here is small."""

    def allocated(self, counted: Callable[[], int]) -> int:
        """Believe what was counted."""
        return counted()

    def peak(self, action: Action, counted: Callable[[], int]) -> int:
        """Count before and after."""
        before = counted()
        action()
        return max(before, counted())


class Cuda(Accelerator):
    """An NVIDIA or ROCm GPU."""

    @property
    def name(self) -> str:
        """As its driver calls it."""
        return torch.cuda.get_device_name(self.device)

    @property
    def has_graphs(self) -> bool:
        """Yes."""
        return True

    @property
    def pair(self) -> tuple[str, str]:
        """Two GPUs, or the only one and the CPU."""
        return "cuda:0", "cuda:1" if torch.cuda.device_count() > 1 else "cpu"

    def seconds(self, action: Action) -> float:
        """Take the time on the device."""
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch's
        torch.cuda.synchronize(self.device)
        began.record()
        action()
        ended.record()
        ended.synchronize()
        return float(began.elapsed_time(ended)) / 1e3

    @contextmanager
    def no_waiting(self, on_host: Callable[[Tensor], bool]) -> Iterator[None]:
        """Turn on torch's own alarm, which knows what is where."""
        torch.cuda.synchronize(self.device)
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def captured(self, step: Action) -> Action | None:
        """Capture it by ``torch.cuda.graph``."""
        graph = torch.cuda.CUDAGraph()
        refusals = []
        with torch.cuda.graph(graph):
            try:
                step()
            except Exception as error:  # kept until the capture has ended, which would hide it otherwise
                refusals.append(error)
        if refusals:
            raise refusals[0]
        return graph.replay

    def tidy(self) -> None:
        """Collect what refers to each other, as optimizers and hooks do, and give freed memory back."""
        gc.collect()
        torch.cuda.empty_cache()

    def allocated(self, counted: Callable[[], int]) -> int:
        """Ask torch's allocator."""
        torch.cuda.synchronize(self.device)
        return torch.cuda.memory_allocated(self.device)

    def peak(self, action: Action, counted: Callable[[], int]) -> int:
        """Ask torch's allocator."""
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        action()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)


_KINDS: dict[str, type[Accelerator]] = {"cpu": Cpu, "cuda": Cuda}


def accelerator(device: str) -> Accelerator:
    """Return what measures on a device of torch."""
    return _KINDS[torch.device(device).type](device)


class _Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    def __init__(self, on_host: Callable[[Tensor], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._on_host = on_host

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        if reads and not self._on_host(args[0]):
            raise RuntimeError(f"{func} reads a tensor's values, for which a GPU would have to be waited for")
        return func(*args, **(kwargs or {}))
