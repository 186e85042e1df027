"""What is said of weights in 16 bits and of what is held between steps: lost updates, settings of no effect."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from anyoptim.arguments.settings import Settings
from anyoptim.building.storing import keeps_what_is_lost, mend_of_lost_updates
from anyoptim.engines.distributed import local
from anyoptim.engines.packing import HALF
from anyoptim.names.spec import OptimizerSpec
from anyoptim.routing.routes import Route, Routing

_USUAL_WEIGHT = 0.02
"""The standard deviation of most models' weights before training, where there are none to look at."""
_SIZE_OF_LR = 1e-2
"""Optimizers whose usual rates end here move weights by about their rate."""
_FALLS_IN_BF16 = 1 - 2**-8
"""From this decay on, what is multiplied by it is rounded back to itself."""
_LOOKED_AT, _OF_EACH = 16, 4096


def advise_on_precision(spec: OptimizerSpec, settings: Settings, routing: Routing | None) -> Iterator[str]:
    """Yield one sentence for updates that rounding will lose, and for each setting of storage without an effect."""
    if routing is None:
        return
    half = [each for each in routing.routes if each.parameter.dtype in HALF]
    behind = settings.get("master_weights", "own")
    if behind != "own" and not half:
        yield f"master_weights={behind} has no effect: no trainable weight is in bf16 or fp16"
    if settings.get("save_fp32") and (behind in ("own", "stochastic") or not half):
        yield "save_fp32 has no effect: nothing lies behind the weights; set master_weights=24bit or 32bit"
    betas = settings.get("betas")
    slow = betas[-1] if isinstance(betas, (tuple, list)) and betas else 0.0
    if settings.get("state_dtype") == "bf16" and isinstance(slow, float) and slow > _FALLS_IN_BF16:
        yield (
            f"a second moment in bf16 never falls at betas={slow:g}, since that is nearer to 1 than bf16 can tell: set"
            " state_dtype=int8 or fp32 in optim_args, or a beta2 of 0.99 or less"
        )
    if settings.get("offload") == "cpu" and _only_a_cpu(routing.routes):
        yield "offload=cpu has no effect: weights and state are on the CPU"
    if half and not keeps_what_is_lost(settings):
        yield from _lost_updates(spec, settings, half)


def _only_a_cpu(routes: Sequence[Route]) -> bool:
    return not torch.accelerator.is_available() and all(each.parameter.device.type == "cpu" for each in routes)


def _lost_updates(spec: OptimizerSpec, settings: Settings, half: Sequence[Route]) -> Iterator[str]:
    rate = settings.number("lr")
    by_rate = (
        spec.usual_lr is not None and spec.usual_lr[1] <= _SIZE_OF_LR and not settings.implementation.own_step_size
    )
    if not rate or not by_rate:
        return
    dtype = half[0].parameter.dtype
    weight = _typical(half)
    spacing = torch.finfo(dtype).eps * weight / 1.5  # between the ends of a power of two
    if rate >= spacing / 2:
        return
    yield (
        f"weights in {str(dtype).removeprefix('torch.')} near {weight:.1g} are {spacing:.0e} apart, and updates of"
        f" about lr={rate:g} are less than half of that, so most of them are lost; {mend_of_lost_updates(settings)}"
    )


def _typical(half: Sequence[Route]) -> float:
    """Return the middle size of weights, of a few of the matrices."""
    matrices = [each.parameter for each in half if each.parameter.dim() > 1 and not each.parameter.is_meta]
    sizes = [_size(each) for each in matrices[:: max(1, len(matrices) // _LOOKED_AT)]]
    found = [each for each in sizes if each > 0]
    return statistics.median(found) if found else _USUAL_WEIGHT


def _size(parameter: Tensor) -> float:
    some = local(parameter.detach()).reshape(-1)[:_OF_EACH]
    return float(some.float().abs().mean()) if some.numel() else 0.0
