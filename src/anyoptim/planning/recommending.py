"""Which optimizers train a model within so much memory, and the TrainingArguments to write for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from anyoptim.engines.packing import HALF
from anyoptim.errors import OptimError
from anyoptim.memory.footprint import Footprint, sharding
from anyoptim.names.lookup import optimizer_info
from anyoptim.planning.plan import plan
from anyoptim.planning.suggestions import suited_arguments

_PACKED = "master_weights=24bit,state_dtype=int8"


@dataclass(frozen=True)
class Recommendation:
    """An optimizer that fits.

    Args:
        name: its name.
        arguments: the fields of TrainingArguments to write.
        footprint: what the fullest process holds.
        advice: what the plan has to say.
    """

    name: str
    arguments: dict[str, object]
    footprint: Footprint
    advice: tuple[str, ...]

    @property
    def line(self) -> str:
        """What to paste into ``TrainingArguments(...)``."""
        return ", ".join(f"{key}={json.dumps(value)}" for key, value in self.arguments.items())

    def to_dict(self) -> dict[str, object]:
        """Return it as plain values that JSON can hold."""
        return {
            "name": self.name,
            "training_arguments": self.arguments,
            "memory": self.footprint.to_dict(),
            "advice": list(self.advice),
        }


def recommend(
    model: nn.Module,
    memory: int,
    names: Iterable[str],
    *,
    ranks: int = 1,
    how: str = "fsdp2",
    on_each: Callable[[str], None] = lambda _: None,
) -> list[Recommendation]:
    """Return the optimizers whose weights, gradients and state fit, those that need the least first.

    Each is planned as it is, and, where it does not fit so, with weights and state packed, with
    ``fused_backward=true``, with both, and with its state on the host; weights in bf16 are packed first. What cannot be
    planned for the model, or trained on so many processes, is left out.

    Args:
        model: the model, which may be on the meta device.
        memory: bytes of one process.
        names: registered names.
        ranks: processes.
        how: how they share the memory; see ``Plan.footprint``.
        on_each: told each name before it is planned.
    """
    width = getattr(getattr(model, "config", None), "hidden_size", None)
    fields = dict(sharding(how).fields if ranks > 1 else ())
    half = any(each.requires_grad and each.dtype in HALF for each in model.parameters())
    fitting = []
    for name in names:
        if "memory" in optimizer_info(name).default.limits:
            continue  # it may grow later
        on_each(name)
        for optim_args in _ways(name, half=half):
            arguments = suited_arguments(name, width=width, optim_args=optim_args)
            try:
                planned = plan(name, model, {**fields, **arguments})
                found = planned.footprint(ranks, how)
            except OptimError:
                break  # another device, a kind of model that it does not take, a process group that it cannot use
            if found.total is not None and found.total <= memory:
                fitting.append(Recommendation(name, arguments, found, planned.advice))
                break
    return sorted(fitting, key=lambda each: (each.footprint.total or 0, each.name))


def _ways(name: str, *, half: bool) -> Iterator[str]:
    """Yield what may be added to a name's arguments, the least change first.

    Args:
        name: a registered name.
        half: the weights are in bf16 or fp16.
    """
    spec = optimizer_info(name)
    has = {each.name for each in spec.hyperparameters}
    fused = "fused_backward=true" if "fused_backward" in has and not spec.fused_backward else ""
    packed = _PACKED if "state_dtype" in has else ""
    both = ",".join(filter(None, [packed, fused]))
    elsewhere = f"{both},offload=cpu" if packed else both
    # steps on plain weights in 16 bits lose most of what a usual rate moves
    ways = (packed, both, elsewhere, "", fused) if half else ("", packed, fused, both, elsewhere)
    yield from dict.fromkeys(ways)
