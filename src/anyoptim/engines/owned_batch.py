"""Some parameters on their way to their owners, their step there, and what comes back of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anyoptim.engines.distributed import lay_out_gradient, local
from anyoptim.engines.exchange import Collection, Parcel, Return
from anyoptim.engines.layout import layout_of, transfer_device
from anyoptim.engines.matrix_engine import MatrixEngine
from anyoptim.engines.on_shards import Chosen, StandIns, stand_in, stood_for


class Batch:
    """The base: a batch that is made is on its way.

    Args:
        steps: of the optimizer inside.
        communicator: the processes that share the parameters.
        members: the parameters, each with the index of its group.
        owners: the rank that owns each.
    """

    def __init__(self, steps: StandIns, communicator: Any, members: Chosen, owners: Sequence[int]) -> None:
        self.steps, self.communicator, self.members = steps, communicator, members
        self.state = steps.optimizer.state
        self.device = transfer_device(members[0][1])
        self.weights = [local(each.detach()) for _, each in members]
        self.layouts = [layout_of(each) for _, each in members]
        self.owners = owners
        gradients = [_gradient(each) for _, each in members]
        self.coming = self.collected(gradients)

    def parcels(self, dtypes: Sequence[torch.dtype]) -> list[Parcel]:
        """Return what is sent of each parameter, in some dtype."""
        return [Parcel(*each) for each in zip(self.layouts, self.owners, dtypes, strict=True)]

    def collected(self, gradients: Sequence[Tensor]) -> Collection:
        """Send what a step needs to the owners."""
        parcels = self.parcels([each.dtype for each in gradients])
        return Collection(self.communicator, self.device, parcels, gradients)

    def step(self) -> None:
        """Wait for what this process owns, step on it, and send back what becomes of it."""
        self.returning = self.stepped(self.coming.wait(self.weights[0].device))
        for _, parameter in self.members:
            self.state.setdefault(parameter, {})  # torch's distributed checkpoints ask whether there is state

    def stepped(self, wholes: dict[int, Tensor]) -> Return:
        """Step on what this process owns, by the member's number, and send back what becomes of it."""
        raise NotImplementedError

    def finish(self) -> None:
        """Wait for this process's parts, and move the weights."""
        for number, part in self.returning.wait().items():
            self.move(number, part.to(self.weights[number].device))

    def move(self, number: int, part: Tensor) -> None:
        """Move this process's part of a weight by what has come back."""
        raise NotImplementedError


class WholeBatch(Batch):
    """Gradients and weights go to the owners, and weights come back: of any optimizer."""

    def collected(self, gradients: Sequence[Tensor]) -> Collection:
        """Send gradients and weights."""
        both = [*gradients, *self.weights]
        parcels = [*self.parcels([each.dtype for each in gradients]), *self._of_weights()]
        return Collection(self.communicator, self.device, parcels, both)

    def _of_weights(self) -> list[Parcel]:
        return self.parcels([each.dtype for each in self.weights])

    def stepped(self, wholes: dict[int, Tensor]) -> Return:
        """Step on stand-ins; see :class:`Batch`."""
        count = len(self.members)
        stand_ins = {
            number: stand_in(wholes[number + count], wholes[number], parameter)
            for number, (_, parameter) in enumerate(self.members)
            if number in wholes
        }
        after = self.steps.step(
            (self.members[number][0], tensor, self.state.get(self.members[number][1], {}))
            for number, tensor in stand_ins.items()
        )
        for tensor, held in after.items():
            self.state[stood_for(tensor)] = held
        changed = {number: tensor.detach() for number, tensor in stand_ins.items()}
        return Return(self.communicator, self.device, self._of_weights(), changed)

    def move(self, number: int, part: Tensor) -> None:
        """Write the part; see :class:`Batch`."""
        self.weights[number].copy_(part)


class DirectionBatch(Batch):
    """Gradients go to the owners, and directions come back: weights stay where they are."""

    @property
    def engine(self) -> MatrixEngine:
        """The optimizer inside."""
        assert isinstance(self.steps.optimizer, MatrixEngine)
        return self.steps.optimizer

    def stepped(self, wholes: dict[int, Tensor]) -> Return:
        """Find directions; see :class:`Batch`."""
        found: dict[int, Tensor] = {}
        of_group: dict[int, list[int]] = {}
        for number in wholes:
            of_group.setdefault(self.members[number][0], []).append(number)
        for index, numbers in of_group.items():
            states = [self.state[self.members[number][1]] for number in numbers]
            gradients = [wholes[number] for number in numbers]
            group = self.engine.param_groups[index]
            found.update(zip(numbers, self.engine.directions(group, gradients, states), strict=True))
        dtypes = [self.engine.direction_dtype or each.dtype for each in self.weights]
        return Return(self.communicator, self.device, self.parcels(dtypes), found)

    def move(self, number: int, part: Tensor) -> None:
        """Move along the direction; see :class:`Batch`."""
        index, parameter = self.members[number]
        self.engine.apply(self.engine.param_groups[index], self.weights[number], part, parameter.shape)


def _gradient(parameter: Tensor) -> Tensor:
    """Return this process's part of a gradient, or zeros where only others have one."""
    if parameter.grad is None:
        return torch.zeros_like(local(parameter.detach()))
    lay_out_gradient(parameter)
    return local(parameter.grad)
