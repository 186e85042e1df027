"""What one process holds for training by a plan: weights, gradients and optimizer state, alone or as one of several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import Shard as ShardOf

from anyoptim.building.blueprint import Blueprint
from anyoptim.errors import OptimError, UnsupportedError, did_you_mean
from anyoptim.memory.first_step import Shard
from anyoptim.memory.owned_state import Ownership, ownership, state_with_owners
from anyoptim.memory.state import StateMemory, local_bytes, state_memory
from anyoptim.routing.layers import layer_numbers


@dataclass(frozen=True)
class Sharding:
    """What a way to train on several processes spreads over them; the rest is whole on each.

    Args:
        weights: the weights.
        gradients: the gradients.
        flat: optimizer state and fp32 weights are flat pieces, as DeepSpeed makes them.
        reduces_late: every gradient is kept until all are reduced.
        fields: what TrainingArguments says of it.
    """

    weights: bool = False
    gradients: bool = False
    flat: bool = False
    reduces_late: bool = False
    fields: tuple[tuple[str, object], ...] = ()


SHARDINGS = {
    "ddp": Sharding(reduces_late=True),
    "fsdp2": Sharding(weights=True, gradients=True, fields=(("fsdp", "full_shard"),)),
    "zero1": Sharding(flat=True, reduces_late=True, fields=(("deepspeed", "zero1"),)),
    "zero2": Sharding(gradients=True, flat=True, fields=(("deepspeed", "zero2"),)),
    "zero3": Sharding(weights=True, gradients=True, flat=True, fields=(("deepspeed", "zero3"),)),
}
"""By the names that ``Plan.footprint`` and ``anyoptim plan --sharding`` take."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that the fullest process holds for training; activations and what communication buffers are not counted.

    Args:
        weights: of every parameter, frozen ones too.
        gradients: as many as are there at once: all, or the largest layer's where the backward pass consumes them.
        state: of the optimizer after its first step, what lies elsewhere included; ``None`` if unknown.
        master_weights: the copy in fp32 that DeepSpeed keeps.
        step: copies of the trainable weights that a wrapper holds during a step.
        exchange: gradients, and weights where they travel, that an owner holds whole at once; two such batches are
            under way, each with what is sent and received of it.
        remainder: of the state, what lies behind weights in 16 bits.
        scales: of the state, the scales of what is packed.
        batch: weights, gradients and state in fp32 of the largest batch of parameters that a step unpacks.
        elsewhere: of the state, what lies in ``where``.
        where: ``"host"``, ``"disk"`` or ``""``.
        gradients_of: ``"all parameters"`` or ``"the largest layer"``.
        state_from: how the state was found.
    """

    weights: int
    gradients: int
    state: int | None
    master_weights: int
    step: int
    exchange: int
    remainder: int
    scales: int
    batch: int
    elsewhere: int
    where: str
    gradients_of: str
    state_from: str

    @property
    def total(self) -> int | None:
        """All of them together; ``None`` if the state is unknown."""
        if self.state is None:
            return None
        held = self.state - self.elsewhere
        return self.weights + self.gradients + held + self.master_weights + self.step + self.exchange + self.batch

    @property
    def moments(self) -> int | None:
        """The state without what lies behind weights and without scales; ``None`` if unknown."""
        return None if self.state is None else self.state - self.remainder - self.scales

    def to_dict(self) -> dict[str, object]:
        """Return it as plain values that JSON can hold."""
        return {**asdict(self), "total": self.total}


def sharding(name: str) -> Sharding:
    """Return what a way to train on several processes spreads.

    Raises:
        OptimError: there is none of that name.
    """
    if name not in SHARDINGS:
        raise OptimError(
            f"No sharding is called {name!r}: take one of {', '.join(SHARDINGS)}.{did_you_mean(name, SHARDINGS)}"
        )
    return SHARDINGS[name]


def footprint(
    plan: Blueprint,
    ranks: int = 1,
    how: str = "fsdp2",
    state_alone: Callable[[], StateMemory] | None = None,
) -> Footprint:
    """Predict what the fullest of ``ranks`` processes holds.

    Sharded state is found by the optimizer's own first step on sharded tensors without storage, in a process group
    that communicates nothing.

    Args:
        plan: what was decided, for a model that may be on the meta device.
        ranks: processes.
        how: a name of ``SHARDINGS``; one process alone shards nothing.
        state_alone: gives the state of one process alone, where it may be known already.

    Raises:
        OptimError: it was planned without a model, or there is no such sharding.
        UnsupportedError: torch.distributed is set up already, or the optimizer cannot train on flat pieces.
    """
    if plan.model is None or plan.routing is None:
        raise OptimError(f"{plan.spec.name} was planned without a model; pass one to learn of its memory.")
    spread = sharding(how)
    if ranks < 1:
        raise OptimError(f"ranks={ranks} must be 1 or more.")
    if ranks == 1 and not spread.flat:
        spread = Sharding()
    weights = sum(_piece(each, ranks if spread.weights else 1) for each in plan.model.parameters())
    gradients, gradients_of = _gradients(plan, ranks if spread.gradients else 1, spread)
    copies = sum(each.default.step_copies for each in plan.spec.wrappers)
    step = copies * sum(_piece(each.parameter, ranks if spread.weights else 1) for each in plan.routing.routes)
    owned = ownership(plan, ranks, sharded=spread.weights) if ranks > 1 and not spread.flat else Ownership({}, {}, 0)
    master = 0
    if spread.flat:
        flat = _flat(plan, ranks)
        state = state_memory(flat)
        master = sum(each.nbytes for group in flat.groups for each in group["params"])
    elif owned.of:
        with _sharder(ranks) if spread.weights else nullcontext(None) as shard:
            state = state_with_owners(plan, owned, ranks, shard)
    elif spread.weights:
        with _sharder(ranks) as shard:
            state = state_memory(plan, shard)
    else:
        state = state_memory(plan) if state_alone is None else state_alone()
    where = {"cpu": "host", "disk": "disk"}.get(str(plan.settings.get("offload")), "")
    return Footprint(
        weights=weights,
        gradients=gradients,
        state=state.total,
        master_weights=master,
        step=step,
        exchange=owned.whole,
        remainder=state.parts.remainder,
        scales=state.parts.scales,
        batch=state.in_flight,
        elsewhere=state.parts.movable if where else 0,
        where=where,
        gradients_of=gradients_of,
        state_from=state.method,
    )


def _gradients(plan: Blueprint, ranks: int, spread: Sharding) -> tuple[int, str]:
    assert plan.routing is not None and plan.model is not None
    sizes = {each.name: _piece(each.parameter, ranks) for each in plan.routing.routes}
    accumulates = (plan.fields.number("gradient_accumulation_steps") or 1) > 1
    if not plan.settings.in_backward or spread.reduces_late or accumulates:
        return sum(sizes.values()), "all parameters"
    waiting = plan.keeps_gradients_of
    kept = sum(sizes[each.name] for each in plan.routing.routes if each.name in waiting)
    numbers, _ = layer_numbers(plan.model, [each.place for each in plan.routing.routes])
    layers: dict[int, int] = {}
    for each in plan.routing.routes:
        if each.name not in waiting:
            number = numbers.get(each.name, 0)
            layers[number] = layers.get(number, 0) + sizes[each.name]
    if not layers:
        return kept, "all parameters"
    return kept + max(layers.values()), "the largest layer"


def _piece(parameter: Tensor, ranks: int) -> int:
    """Return the bytes of the largest of ``ranks`` pieces of a parameter, cut along its rows as FSDP2 does."""
    if ranks == 1 or parameter.dim() == 0:
        return local_bytes(parameter)
    rows = math.ceil(parameter.shape[0] / ranks)
    return rows * parameter.shape[1:].numel() * parameter.element_size()


def _flat(plan: Blueprint, ranks: int) -> Blueprint:
    """Return the plan on what DeepSpeed hands to an optimizer: a flat fp32 piece of each group's parameters."""
    if not plan.spec.traits.flat_pieces:
        raise UnsupportedError(
            f"{plan.spec.name} is not known to train right on the flat pieces of parameters that DeepSpeed hands to an"
            " optimizer; take fsdp2 or ddp."
        )
    groups = []
    for group in plan.groups:
        count = math.ceil(sum(each.numel() for each in group["params"]) / ranks)
        pieces = [nn.Parameter(torch.empty(count, dtype=torch.float32, device="meta"))] if count else []
        groups.append({**group, "params": pieces})
    return replace(plan, groups=tuple(groups), routing=None)  # type: ignore[arg-type]  # groups as they were


@contextmanager
def _sharder(ranks: int) -> Iterator[Shard]:
    """Yield what cuts a tensor for the first of ``ranks`` processes, as FSDP2 does."""
    # torch's own way to trace distributed programs in one process
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise UnsupportedError("Memory over several ranks is planned before torch.distributed is set up.")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        mesh = init_device_mesh("cpu", (ranks,))

        def shard(tensor: Tensor) -> Tensor:
            if tensor.dim() == 0:
                return tensor
            first, shape, stride = tensor.chunk(ranks)[0], tensor.shape, tensor.stride()
            return DTensor.from_local(first, mesh, [ShardOf(0)], run_check=False, shape=shape, stride=stride)

        yield shard
    finally:
        dist.destroy_process_group()
