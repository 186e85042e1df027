"""Unpack, step and pack in one compiled pass over memory, of optimizers whose update is a pure function of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from anyoptim.engines.fused_forms import FORMS, FusedForm, Tensors
from anyoptim.engines.packed_state import (
    SCALE,
    WEIGHT,
    Storage,
    is_remainder,
    state_packed,
    state_unpacked,
    weight_packed,
    wide_weight,
    word_of,
)
from anyoptim.engines.packing import BLOCK, HALF
from anyoptim.engines.transforms import compiled

BLOCKS = 2**13
"""Blocks that a pass takes at once on a CPU: what it cannot keep in registers stays in the cache."""
_REMAINDERS = ("24bit", "32bit")
_LENGTHS = {SCALE: 1, "int4": BLOCK // 2}
"""What is packed of a block, where that is not one number of each element, by the word after its key."""


class CompiledPass:
    """Steps on one parameter after another, each in one compiled pass; the generic way takes those that it leaves.

    Args:
        form: of :data:`anyoptim.engines.fused_forms.FORMS`.
        storage: how weights and state are held between steps.
    """

    def __init__(self, form: str, storage: Storage) -> None:
        self.name = form
        self.storage = storage

    @property
    def form(self) -> FusedForm:
        """What a step does."""
        return FORMS[self.name]

    def takes(self, group: Mapping[str, Any], parameter: Tensor, held: Mapping[str, Any]) -> bool:
        """Whether it can step on a parameter now; see :meth:`fits`."""
        dense = parameter.grad is not None and not parameter.grad.is_sparse
        return dense and not torch.compiler.is_compiling() and self.fits(group, parameter, held)

    def fits(self, group: Mapping[str, Any], parameter: Tensor, held: Mapping[str, Any]) -> bool:
        """Whether it can step on a parameter that has a dense gradient.

        Args:
            group: its group.
            parameter: the parameter.
            held: its state, packed; of a parameter that has none yet the generic way makes it.
        """
        length = parameter.shape[1:].numel() if parameter.dim() > 1 else 0
        rows_of_blocks = length and length % BLOCK == 0 and parameter.numel() > BLOCK and parameter.is_contiguous()
        if not rows_of_blocks or parameter.dtype not in HALF | {torch.float32}:
            return False
        if self.storage.master_weights in ("kahan", "stochastic"):
            return False
        behind = self.storage.master_weights in _REMAINDERS and parameter.dtype in HALF
        expected = _keys(self.form.state(group), self.storage)
        if behind:
            expected |= {f"{WEIGHT}:{self.storage.master_weights}"}
        counted = not self.form.counter or self.form.counter in held
        return self.storage.steps_wide and counted and expected <= held.keys() and self.form.does(group)

    def step(self, group: Mapping[str, Any], parameter: Tensor, held: MutableMapping[str, Any]) -> None:
        """Step on a parameter that it takes, and change its weight and state in place.

        Args:
            group: its group.
            parameter: has a gradient.
            held: its state, packed, on the parameter's device.

        Raises:
            UnsupportedError: torch.compile has no compiler here.
        """
        form, gradient, count = self.form, parameter.grad, 0
        assert gradient is not None
        if form.counter:
            count = int(held[form.counter]) + 1
        numbers = form.numbers(group, count)
        values = torch.tensor(list(numbers.values()), dtype=torch.float32, device=parameter.device)
        given = {key: value.data for key, value in zip(numbers, values.unbind(), strict=True)}
        own = form.state(group)
        state = {key: value for key, value in held.items() if is_remainder(key) or key.partition(":")[0] in own}
        for low, grad, packed in _parts(parameter.detach(), gradient, state):
            _compiled(self.name)(self.storage, low, grad, packed, given)
        if form.counter:
            held[form.counter] += 1


def _parts(low: Tensor, gradient: Tensor, state: Tensors) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
    """Yield flat views of a weight, a gradient and packed state, of as many blocks as a pass takes at once."""
    blocks = low.numel() // BLOCK
    at_once = BLOCKS if low.device.type == "cpu" else blocks
    every = {"": low, "gradient": gradient.contiguous(), **state}
    for start in range(0, blocks - 1, at_once):
        # of one block, or of a view that a compiler can tell from its base, it would make a pass of its own
        stop = blocks if start + at_once >= blocks - 1 else start + at_once
        part = {key: value.view(blocks, -1)[start:stop].view(-1).data for key, value in every.items()}
        yield part.pop(""), part.pop("gradient"), part


@lru_cache
def _keys(own: tuple[str, ...], storage: Storage) -> frozenset[str]:
    """Return the keys of what is packed of state of a parameter's size."""
    example = torch.zeros(1, BLOCK)
    return frozenset(state_packed(dict.fromkeys(own, example), storage, example.shape))


@lru_cache
def _compiled(form: str) -> Any:
    update = FORMS[form].update

    def stored_step(storage: Storage, low: Tensor, gradient: Tensor, packed: Tensors, numbers: Tensors) -> None:
        # all is flat, and becomes blocks here, so that a compiler knows one number of blocks and their length
        blocks = low.shape[0] // BLOCK
        low, gradient = low.view(blocks, BLOCK), gradient.view(blocks, BLOCK)
        packed = {key: value.view(blocks, _LENGTHS.get(word_of(key), BLOCK)) for key, value in packed.items()}
        shape = low.shape
        weight, state = wide_weight(low, packed), state_unpacked(packed, shape)
        weight, state = update(weight, gradient.to(torch.float32), state, numbers)
        made, behind = weight_packed(weight, low.dtype, storage, 0) if low.dtype in HALF else (weight, {})
        low.copy_(made)
        for key, value in {**state_packed(state, storage, shape), **behind}.items():
            packed[key].copy_(value)

    return compiled(stored_step)
