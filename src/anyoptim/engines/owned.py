"""Layer-wise ownership: each parameter that several processes share is stepped whole, on the one that owns it.

Source: the distributed Muon of arXiv 2502.16982, section 2.3, for any optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from anyoptim.engines import owned_state
from anyoptim.engines.composite import inside
from anyoptim.engines.distributed import several_processes
from anyoptim.engines.layout import group_of, transfer_device
from anyoptim.engines.loading import between_hooks, packed
from anyoptim.engines.matrix_engine import MatrixEngine
from anyoptim.engines.on_shards import Chosen, OnShards, StandIns
from anyoptim.engines.owned_batch import Batch, DirectionBatch, WholeBatch
from anyoptim.engines.ownership import BATCH_BYTES, batches, owners


class Owned(OnShards):
    """Lets an optimizer step whole parameters, each on one of the processes that share it.

    In a step gradients and weights go to the owners, batch by batch, and weights come back; a batch is on its way while
    the one before is stepped. An owner's state is of plain whole tensors; the others have an empty mark. State dicts
    hold what they would without an owner: tensors of a parameter's shape lie as the parameter does, others are whole
    on every process. To make and to load one is a work of all processes together.

    Parameters that no other process shares are stepped as they are.

    Args:
        optimizer: updates a parameter from its gradient and state and its group's values alone.
        replicas: parameters that are no DTensors are DDP's replicas, with equal gradients on every process, so they
            have owners, too.
        bound: bytes of gradients that an owner holds whole at once.
    """

    def __init__(self, optimizer: Optimizer, replicas: bool = False, bound: int = BATCH_BYTES) -> None:
        super().__init__(optimizer)
        self.replicas = replicas
        self.bound = bound
        self.outside: frozenset[str] = frozenset()
        """Keys of a parameter's state that are a wrapper's, which steps on shards."""
        self._consolidated: dict[Any, Any] | None = None
        self._counts: bool | None = None
        """Whether steps change values of groups; not known before the first one."""
        # weak: FSDP2 frees the parameters that it replaces
        self._owner: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_owner": None, "_consolidated": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_owner" in state:
            self._owner = WeakTensorKeyDictionary()

    def shared(self, parameter: Tensor) -> bool:
        """Whether several processes share a parameter."""
        return isinstance(parameter, DTensor) or (self.replicas and several_processes())

    def owner(self, parameter: Tensor) -> int:
        """Return the rank, in the group of those that share a parameter, that owns it."""
        if parameter not in self._owner:
            self._assign()
        return self._owner[parameter]

    def fills_a_batch(self, parameters: Iterable[Tensor]) -> bool:
        """Whether parameters are as many as owners hold whole at once."""
        shared = [each for each in parameters if self.shared(each)]
        ranks = dist.get_world_size(group_of(shared[0])) if shared else 1
        return sum(each.numel() * each.element_size() for each in shared) >= self.bound * ranks

    def _assign(self) -> None:
        """Give an owner to every parameter that has none yet."""
        for communicator, members in self.by_communicator(enumerate(self.every())):
            loads = [0.0] * dist.get_world_size(communicator)
            new = []
            for _, parameter in members:
                if parameter in self._owner:
                    loads[self._owner[parameter]] += self._cost(parameter)
                else:
                    new.append(parameter)
            found = owners([self._cost(each) for each in new], len(loads), loads)
            for parameter, owner in zip(new, found, strict=True):
                self._owner[parameter] = owner

    def _cost(self, parameter: Tensor) -> float:
        optimizer = self.optimizer
        return optimizer.cost(parameter.shape) if isinstance(optimizer, MatrixEngine) else parameter.numel()

    def every(self) -> list[Tensor]:
        """Return the parameters of all groups."""
        return [each for group in self.param_groups for each in group["params"]]

    def by_communicator(self, chosen: Iterable[tuple[int, Tensor]]) -> list[tuple[Any, list[tuple[int, Tensor]]]]:
        """Return the parameters that several processes share, those of the same processes together.

        Args:
            chosen: parameters, each with a number that stays with it.
        """
        found: dict[Any, list[tuple[int, Tensor]]] = {}
        for index, parameter in chosen:
            if self.shared(parameter):
                found.setdefault(group_of(parameter), []).append((index, parameter))
        return list(found.items())

    def update(self, chosen: Chosen) -> dict[int, Mapping[str, Any]]:
        """Update parameters; see :class:`OnShards`."""
        steps = self.stand_ins()
        own = [(index, each) for index, each in chosen if not self.shared(each) and each.grad is not None]
        state = self.optimizer.state
        for each, held in steps.step((index, each, state.get(each, {})) for index, each in own).items():
            state[each] = held
        with_gradient = {index for index, _ in own}
        for communicator, members in self.by_communicator(chosen):
            present = _with_gradients(communicator, members)
            with_gradient.update(index for index, _ in present)
            self._update_shared(steps, communicator, present)
        if self._counts is not False:
            for index, parameter in chosen:
                steps.advance(index, parameter, with_gradient=index in with_gradient)
            self._counts = steps.changed_values()
        steps.finish()
        return steps.after

    def _update_shared(self, steps: StandIns, communicator: Any, members: Chosen) -> None:
        """Update parameters of the same processes, all of which have a gradient on some of these."""
        parameters = [each for _, each in members]
        order = [(tuple(each.shape), str(each.dtype)) for each in parameters]
        sizes = [each.numel() * each.element_size() for each in parameters]
        kind = DirectionBatch if isinstance(self.optimizer, MatrixEngine) else WholeBatch
        owner = [self.owner(each) for each in parameters]
        waiting = (
            kind(steps, communicator, [members[index] for index in batch], [owner[index] for index in batch])
            for batch in batches(owner, sizes, order, self.bound)
        )
        returning: Batch | None = None
        for batch in _one_ahead(waiting):
            batch.step()
            if returning is not None:
                returning.finish()
            returning = batch
        if returning is not None:
            returning.finish()

    def to_save(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the inner optimizer's state dict, with state spread over the processes as parameters are.

        All processes have to call it, unless :meth:`consolidate_state_dict` has been called by all.
        """
        if self._consolidated is None:
            return owned_state.spread(self, state_dict)
        return {**state_dict, "state": self._consolidated}

    def consolidate_state_dict(self) -> None:
        """Gather state, so that the next state dicts need no other process: until :meth:`forget_state_dict`.

        As ``torch.distributed.optim.ZeroRedundancyOptimizer`` has it, for loops that save on one process.
        """
        plain = between_hooks(self.optimizer, lambda: packed(self.optimizer))
        # without the parameters of others, with whom it may share a state
        own = {key: held for key, held in plain["state"].items() if not isinstance(key, Tensor)}
        self._consolidated = owned_state.spread(self, {**plain, "state": own})["state"]

    def forget_state_dict(self) -> None:
        """Free what :meth:`consolidate_state_dict` has gathered."""
        self._consolidated = None

    def load(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict: each process keeps the state of what it owns."""
        owned_state.load(self, state_dict)


@contextmanager
def replicas_consolidated(optimizer: Optimizer | None) -> Iterator[None]:
    """Let one process alone make state dicts of an optimizer whose replicas have owners; all processes enter.

    Args:
        optimizer: any, with facades around it or without.
    """
    owned = [each for each in inside(optimizer, Owned) if each.replicas and several_processes()]
    for each in owned:
        each.consolidate_state_dict()
    try:
        yield
    finally:
        for each in owned:
            each.forget_state_dict()


def _with_gradients(communicator: Any, members: list[tuple[int, Tensor]]) -> list[tuple[int, Tensor]]:
    """Return the parameters that have a gradient on any process, so that all take part in the same exchanges."""
    has = [each.grad is not None for _, each in members]
    flags = torch.tensor(has, dtype=torch.uint8, device=transfer_device(members[0][1]))
    dist.all_reduce(flags, dist.ReduceOp.MAX, group=communicator)
    return [each for each, flag in zip(members, flags.tolist(), strict=True) if flag]


def _one_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield batches, each after the next one has been made: so it is on its way meanwhile."""
    current = next(batches, None)
    while current is not None:
        following = next(batches, None)
        yield current
        current = following
