"""Layer-wise ownership: each parameter that several processes share is stepped whole, on the one that owns it.

Source: the distributed Muon of arXiv 2502.16982, section 2.3, for any optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from anyoptim.engines import owned_state
from anyoptim.engines.distributed import lay_out_gradient, local, several_processes
from anyoptim.engines.exchange import Collection, Parcel, Return
from anyoptim.engines.layout import group_of, layout_of, transfer_device
from anyoptim.engines.on_shards import Chosen, OnShards, StandIns, stand_in, stood_for
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
        self._counts: bool | None = None
        """Whether steps change values of groups; not known before the first one."""
        # weak: FSDP2 frees the parameters that it replaces
        self._owner: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_owner": None}

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
                    loads[self._owner[parameter]] += parameter.numel()
                else:
                    new.append(parameter)
            found = owners([each.numel() for each in new], len(loads), loads)
            for parameter, owner in zip(new, found, strict=True):
                self._owner[parameter] = owner

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
        steps = StandIns(self.optimizer)
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
        together = batches([self.owner(each) for each in parameters], sizes, order, self.bound)
        waiting = (_Batch(self, communicator, [members[index] for index in batch]) for batch in together)
        returning: _Batch | None = None
        for batch in _one_ahead(waiting):
            batch.step(steps)
            if returning is not None:
                returning.finish()
            returning = batch
        if returning is not None:
            returning.finish()

    def to_save(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the inner optimizer's state dict, with state spread over the processes as parameters are."""
        return owned_state.spread(self, state_dict)

    def load(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict: each process keeps the state of what it owns."""
        owned_state.load(self, state_dict)


class _Batch:
    """Some parameters on their way to the owners, and back.

    Args:
        facade: whose.
        communicator: the processes that share them.
        members: the parameters.
    """

    def __init__(self, facade: Owned, communicator: Any, members: Chosen) -> None:
        self.state = facade.optimizer.state
        self.communicator, self.members = communicator, members
        self.device = transfer_device(members[0][1])
        self.parcels = [Parcel(layout_of(each), facade.owner(each), each.dtype) for _, each in members]
        weights = [local(each.detach()) for _, each in members]
        gradients = [_gradient(each) for _, each in members]
        self.weights = weights
        of_gradients = [
            Parcel(each.layout, each.owner, gradient.dtype)
            for each, gradient in zip(self.parcels, gradients, strict=True)
        ]
        self.coming = Collection(communicator, self.device, [*of_gradients, *self.parcels], [*gradients, *weights])

    def step(self, steps: StandIns) -> None:
        """Wait for what this process owns, step on it, and send it back."""
        wholes = self.coming.wait([*self.weights, *self.weights])
        stand_ins = {
            number: stand_in(wholes[number + len(self.members)], wholes[number], parameter)
            for number, (_, parameter) in enumerate(self.members)
            if number in wholes
        }
        after = steps.step(
            (self.members[number][0], tensor, self.state.get(self.members[number][1], {}))
            for number, tensor in stand_ins.items()
        )
        for _, parameter in self.members:
            self.state.setdefault(parameter, {})  # torch's distributed checkpoints ask whether there is state
        for tensor, held in after.items():
            self.state[stood_for(tensor)] = held
        changed = {number: tensor.detach() for number, tensor in stand_ins.items()}
        self.returning = Return(self.communicator, self.device, self.parcels, changed)

    def finish(self) -> None:
        """Wait for this process's parts, and write them into the weights."""
        for number, part in self.returning.wait().items():
            self.weights[number].copy_(part)


def _gradient(parameter: Tensor) -> Tensor:
    """Return this process's part of a gradient, or zeros where only others have one."""
    if parameter.grad is None:
        return torch.zeros_like(local(parameter.detach()))
    lay_out_gradient(parameter)
    return local(parameter.grad)


def _with_gradients(communicator: Any, members: list[tuple[int, Tensor]]) -> list[tuple[int, Tensor]]:
    """Return the parameters that have a gradient on any process, so that all take part in the same exchanges."""
    has = [each.grad is not None for _, each in members]
    flags = torch.tensor(has, dtype=torch.uint8, device=transfer_device(members[0][1]))
    dist.all_reduce(flags, dist.ReduceOp.MAX, group=communicator)
    return [each for each, flag in zip(members, flags.tolist(), strict=True) if flag]


def _one_ahead(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """Yield batches, each after the next one has been made: so it is on its way meanwhile."""
    current = next(batches, None)
    while current is not None:
        following = next(batches, None)
        yield current
        current = following
