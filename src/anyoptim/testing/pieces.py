"""Whether pieces of a parameter, each by itself, end as the whole does, and a parameter alone as it does among all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from types import NoneType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from anyoptim.engines.composite import CompositeOptimizer
from anyoptim.engines.on_shards import StandIns, stand_in
from anyoptim.engines.stepping import stepped_twin, take_back, values_of
from anyoptim.testing.subject import Subject, tensors

_STEPS = 40
"""Some do otherwise after a while: SWATS, Shampoo, D-Adaptation."""
_CLOSE = 1e-6


def is_elementwise(subject: Subject) -> bool:
    """Whether steps on uneven pieces, of rows and of columns, move the weights as steps on wholes do.

    Gradients of a piece are ten times those of the one before, and one piece has none but zeros, so that any norm or
    mean over the whole shows.

    Args:
        subject: builds its optimizer in one process; of a hybrid the main one is looked at.
    """
    return all(_alike(subject, dim) for dim in (0, 1))


def is_separable(subject: Subject) -> bool:
    """Whether steps on one parameter after the other move the weights as steps on all do, counts advancing once."""
    ends = []
    for apart in (False, True):
        model = subject.model()
        optimizer = _main(subject.build(model, weight_decay=0.1))
        every = [(index, each) for index, group in enumerate(optimizer.param_groups) for each in group["params"]]
        for step in range(_STEPS):
            for number, (_, each) in enumerate(every):
                each.grad = _gradient(each.detach(), 0, 100 * step + number)
            steps = StandIns(optimizer)
            with torch.no_grad():
                for part in [[each] for each in every] if apart else [every]:
                    after = steps.step((index, each, optimizer.state.get(each, {})) for index, each in part)
                    optimizer.state.update(after)
            for index, values in steps.after.items():
                optimizer.param_groups[index].update(values)
            steps.finish()
        ends.append([each.detach() for _, each in every])
    return all(torch.allclose(one, other, rtol=_CLOSE, atol=_CLOSE) for one, other in zip(*ends, strict=True))


def _alike(subject: Subject, dim: int) -> bool:
    ends = []
    for cut in (False, True):
        model = subject.model()
        optimizer = _main(subject.build(model, weight_decay=0.1))
        parts: list[tuple[dict[str, Any], list[Tensor]]] = []
        whole: list[tuple[Tensor, list[Tensor]]] = []
        for group in optimizer.param_groups:
            pieces = {each: _pieces(each.detach(), dim) if cut else [each.detach()] for each in group["params"]}
            stand_ins = {each: [stand_in(piece.clone(), None, each) for piece in of] for each, of in pieces.items()}
            parts.append((group, [one for each in stand_ins.values() for one in each]))
            whole.extend(stand_ins.items())
        state: defaultdict[Any, Any] = defaultdict(dict)
        for step in range(_STEPS):
            for number, (parameter, stand_ins_of) in enumerate(whole):
                gradient = _gradient(parameter, dim, 100 * step + number)
                for one, piece in zip(stand_ins_of, _pieces(gradient, dim) if cut else [gradient], strict=True):
                    one.grad = piece.clone()
            twin = stepped_twin(optimizer, parts, state)
            take_back(optimizer, twin)
            for (group, _), values in zip(parts, values_of(twin), strict=True):
                group.update(values)
        if any(_of_another_shape(held, one) for one, held in state.items()):
            return False
        ends.append([_together(each, dim) for _, each in whole])
    return all(torch.allclose(one, other, rtol=_CLOSE, atol=_CLOSE * 1e-2) for one, other in zip(*ends, strict=True))


def _of_another_shape(state: dict[str, Any], parameter: Tensor) -> bool:
    """Whether state holds a tensor that is not of the parameter's shape, or an object; counts aside."""
    held = [value for key, value in state.items() if "step" not in str(key)]
    if any(not isinstance(each, (Tensor, int, float, str, list, tuple, dict, NoneType)) for each in held):
        return True
    return any(each.shape != parameter.shape for value in held for each in tensors(value))


def _main(optimizer: Optimizer) -> Optimizer:
    return list(optimizer.optimizers.values())[-1] if isinstance(optimizer, CompositeOptimizer) else optimizer


def _sizes(size: int) -> list[int]:
    """Return uneven sizes that make up a dimension."""
    first = min(3, size - 2)
    return [first, (size - first) // 3, size - first - (size - first) // 3]


def _pieces(tensor: Tensor, dim: int) -> list[Tensor]:
    if tensor.dim() <= dim or tensor.shape[dim] < 5:
        return [tensor]
    return list(torch.split(tensor, _sizes(tensor.shape[dim]), dim))


def _together(pieces: list[Tensor], dim: int) -> Tensor:
    return torch.cat([each.detach() for each in pieces], dim) if len(pieces) > 1 else pieces[0].detach()


def _gradient(parameter: Tensor, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    for factor, piece in zip(_factors(), _pieces(gradient, dim), strict=False):
        piece.mul_(factor)
    return gradient


def _factors() -> Iterator[float]:
    yield from (1.0, 0.0, 10.0)
