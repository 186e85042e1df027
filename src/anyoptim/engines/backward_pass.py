"""What is to be known inside a backward pass: whether a gradient is final, and of one step so far what is done."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import CheckpointFunction

from anyoptim.engines.distributed import several_processes
from anyoptim.engines.owned import Owned
from anyoptim.errors import UnsupportedError


@dataclass
class BackwardStep:
    """What the backward pass has done of a step so far.

    Args:
        updated: the parameters that were updated.
        groups_after: what the groups' own values become when the step is done, by the group's index.
        gathered: by the optimizer, the parameters whose gradients wait until there are enough for their owners, each
            with its group's index.
        sent: by the optimizer, how many of its parameters have gone to their owners.
    """

    updated: set[Tensor] = field(default_factory=set)
    groups_after: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    gathered: dict[Owned, dict[Tensor, int]] = field(default_factory=dict)
    sent: dict[Owned, int] = field(default_factory=dict)

    def gather(self, optimizer: Owned, parameter: Tensor, group_index: int) -> bool:
        """Keep a gradient; return whether those that wait make a batch, so that all owners have something to do."""
        gathered = self.gathered.setdefault(optimizer, {})
        gathered[parameter] = group_index
        every = sum(len(group["params"]) for group in optimizer.param_groups)
        return len(gathered) + self.sent.get(optimizer, 0) == every or optimizer.fills_a_batch(gathered)


def arrives_reduced(parameter: Tensor) -> bool:
    """Whether a gradient is final when autograd is done with it: in one process, or sharded by FSDP2."""
    return isinstance(parameter, DTensor) or not several_processes()


def more_micro_batches() -> bool:
    """Whether accelerate, where it runs the loop, is going to add more micro-batches to this step."""
    accelerate: Any = sys.modules.get("accelerate.state")
    return accelerate is not None and not accelerate.GradientState._shared_state.get("sync_gradients", True)


def refuse_parts() -> None:
    """Raise if reentrant checkpointing runs a backward pass for each use of a module.

    Raises:
        UnsupportedError: it does.
    """
    if _called_by(CheckpointFunction.backward):
        raise UnsupportedError(
            "A parameter's gradient came twice in one step: a module is used several times under reentrant"
            " checkpointing, or step() was not called. Set gradient_checkpointing_kwargs={'use_reentrant': False},"
            " or fused_backward=false in optim_args."
        )


def _called_by(function: Any) -> bool:
    """Whether a function runs, in this thread: autograd calls hooks below it."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None
