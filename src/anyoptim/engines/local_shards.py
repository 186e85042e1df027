"""Element-wise optimizers on sharded parameters: each process steps its own part, as a plain tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from anyoptim.engines.distributed import lay_out_gradient, local
from anyoptim.engines.layout import as_rows, as_shard
from anyoptim.engines.on_shards import Chosen, TurnsParts, one_element, stand_in, stood_for
from anyoptim.engines.packed_state import length_of_rows, lies_by_rows
from anyoptim.engines.stepping import step_inside


class LocalShards(TurnsParts):
    """Lets an element-wise optimizer, whose operations know no DTensor, step on each process's part.

    Nothing is communicated. State of a part's shape is a DTensor that lies as the parameter does, in the state and in
    state dicts.

    Args:
        optimizer: updates each element of a parameter from that element's gradient and state and the group's values.
    """

    def turn(self, chosen: Chosen, act: Callable[[Any], object]) -> dict[int, Mapping[str, Any]]:
        """Turn parts of parameters; see :class:`TurnsParts`."""
        return self._run(chosen, act)

    def update(self, chosen: Chosen) -> dict[int, Mapping[str, Any]]:
        """Update parameters; see :class:`OnShards`."""
        given = [each for each in chosen if each[1].grad is not None]
        for _, parameter in given:
            lay_out_gradient(parameter)
        return self._run(given, step_inside, chosen)

    def _run(self, given: Chosen, act: Callable[[Any], object], advancing: Chosen = ()) -> dict[int, Mapping[str, Any]]:
        """Let the optimizer inside do something to this process's parts of parameters."""
        steps = self.stand_ins()
        parts = []
        for index, parameter in given:
            part, gradient = local(parameter.detach()), parameter.grad
            gradient = None if gradient is None else local(gradient)
            tensor = stand_in(part, gradient, parameter)
            if not part.numel():  # an empty part has state, too, or ranks would save other keys
                tensor = one_element(parameter, part, with_gradient=gradient is not None)
            parts.append((index, tensor, _plain(self.optimizer.state.get(parameter, {}), tensor)))
        for tensor, held in steps.step(parts, act).items():
            if held:
                self.optimizer.state[stood_for(tensor)] = _sharded(held, tensor, stood_for(tensor))
        for index, parameter in advancing:
            steps.advance(index, parameter, with_gradient=False)
        steps.finish()
        return steps.after


def _plain(state: dict[str, Any], tensor: Tensor) -> dict[str, Any]:
    """Return the state of a part; for that of one element that stands for an empty part, zeros."""

    def part_of(key: str, value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        part = value.to_local()
        if part.numel() or not tensor.numel():
            return part
        shape = [1] * part.dim() if lies_by_rows(key) else tensor.shape
        return torch.zeros(shape, dtype=part.dtype, device=part.device)

    return {key: part_of(key, value) for key, value in state.items()}


def _sharded(state: dict[str, Any], tensor: Tensor, parameter: Tensor) -> dict[str, Any]:
    """Return state whose tensors of a part's shape are DTensors."""
    if not isinstance(parameter, DTensor):
        return state
    part = local(parameter.detach())

    def whole_of(key: str, value: Any) -> Any:
        if lies_by_rows(key):
            width = length_of_rows(key, parameter.shape)
            return as_rows(value if part.numel() else value.new_empty((0, width)), parameter)
        if not isinstance(value, Tensor) or value.shape != tensor.shape or not value.dim():
            return value
        return as_shard(value if value.shape == part.shape else value.new_empty(part.shape), parameter)

    return {key: whole_of(key, value) for key, value in state.items()}
