"""The ways to try an optimizer's first step without training, and which of them are tried for how many bytes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

_fake_tensor_log = logging.getLogger("torch._subclasses.fake_tensor")


class Way(NamedTuple):
    """A way to try a step, and what a person is told of it."""

    method: str
    context: Callable[[], AbstractContextManager[None]]


@contextmanager
def _fake_tensors(*modes: TorchDispatchMode) -> Iterator[None]:
    with ExitStack() as stack:
        stack.callback(_fake_tensor_log.setLevel, _fake_tensor_log.level)
        _fake_tensor_log.setLevel(logging.CRITICAL)  # it would tell of each step that it cannot take
        stack.enter_context(_told_apart())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        # compiled kernels would read the memory that a fake tensor has not
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for mode in modes:
            stack.enter_context(mode)
        yield


@contextmanager
def _told_apart() -> Iterator[None]:
    """Give fake tensors an address each, by which some packages know parameters."""

    def data_ptr(tensor: Tensor) -> int:
        return int(tensor.untyped_storage()._cdata) + int(tensor.storage_offset()) * tensor.element_size()

    FakeTensor.data_ptr = data_ptr  # type: ignore[method-assign, assignment]  # undone below
    try:
        yield
    finally:
        del FakeTensor.data_ptr


class _TakingOnes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Answers a step that asks for the value of a fake tensor: 1."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except DataDependentOutputException:
            if func is not torch.ops.aten._local_scalar_dense.default:
                raise
            dtype = args[0].dtype
            return True if dtype is torch.bool else 1.0 if dtype.is_floating_point else 1


_FAKE = Way("its first step on fake tensors", _fake_tensors)
_REAL = Way("a real step per parameter shape", nullcontext)
_TAKING_ONES = Way(
    "its first step on fake tensors, each value that it reads taken as 1",
    lambda: _fake_tensors(_TakingOnes()),  # type: ignore[no-untyped-call]  # torch's
)


class Attempt(NamedTuple):
    """What is tried where the parameters that step are of so many bytes.

    Args:
        up_to: bytes.
        ways: the first that works is believed.
        otherwise: why nothing is known if none works; empty: the first failure says it.
    """

    up_to: float
    ways: tuple[Way, ...]
    otherwise: str = ""


ATTEMPTS = (
    Attempt(2**28, (_FAKE, _REAL, _TAKING_ONES)),
    Attempt(2**29, (_FAKE, _TAKING_ONES, _REAL)),  # a real step takes long, and much memory
    Attempt(math.inf, (_FAKE, _TAKING_ONES), "the model is too large to try a real step on"),
)
"""The whole decision: what runs on fake tensors costs nothing; the larger a step, the later a real one is tried."""
