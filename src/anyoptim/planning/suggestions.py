"""TrainingArguments that suit an optimizer, decided by its spec's data alone."""

from __future__ import annotations

import math

from anyoptim.names.lookup import optimizer_info
from anyoptim.names.spec import OptimizerSpec


def suited_arguments(
    name: str, *, learning_rate: float | None = None, width: int | None = None, optim_args: str = ""
) -> dict[str, object]:
    """Return the TrainingArguments fields that suit an optimizer, by name; only those that it needs.

    A schedule-free optimizer gets a constant schedule, any other a cosine one; one that limits its updates, or updates
    in the backward pass, is not clipped; a low-rank one projects every linear layer, to at most a quarter of the width;
    the fallback of a hybrid gets the rate of its own range that stands where ``learning_rate`` stands in the other.

    Args:
        name: a registered name.
        learning_rate: the middle of the usual ones if ``None``.
        width: hidden size of the model.
        optim_args: what else the text should hold.
    """
    spec = optimizer_info(name)
    rate = usual_rates(spec)[1] if learning_rate is None else learning_rate
    texts = [optim_args] if optim_args else []
    rank = next((each.default for each in spec.hyperparameters if each.name == "rank"), None)
    if width and isinstance(rank, int) and rank > width // 4 and "rank=" not in optim_args:
        texts.append(f"rank={max(width // 4, 1)}")
    if spec.fallback is not None and "fallback_lr=" not in optim_args:
        texts.append(f"fallback_lr={same_place(rate, spec, spec.fallback):g}")
    arguments: dict[str, object] = {"optim": spec.name}
    if texts:
        arguments["optim_args"] = ",".join(texts)
    if spec.traits.names_targets:
        arguments["optim_target_modules"] = "all-linear"
    arguments["learning_rate"] = rate
    arguments["lr_scheduler_type"] = "constant" if spec.traits.schedule_free else "cosine"
    if spec.fused_backward or spec.traits.clips_updates or "fused_backward=true" in optim_args:
        arguments["max_grad_norm"] = 0.0
    return arguments


def usual_rates(spec: OptimizerSpec) -> tuple[float, float, float]:
    """Return the lowest, the middle (geometric, one digit) and the highest usual learning rate of an optimizer."""
    default = next((each.default for each in spec.hyperparameters if each.name == "lr"), None)
    alone = default if isinstance(default, float) and default > 0 else 1e-3
    low, high = spec.usual_lr or (alone, alone)
    return low, high if low == high else float(f"{math.sqrt(low * high):.0e}"), high


def same_place(rate: float, spec: OptimizerSpec, other: OptimizerSpec) -> float:
    """Return the rate of ``other`` that stands in its range where ``rate`` stands in the range of ``spec``."""
    (low, _, high), (other_low, _, other_high) = usual_rates(spec), usual_rates(other)
    if low == high:
        return other_high
    place = math.log(rate / low) / math.log(high / low)
    return float(f"{other_low * (other_high / other_low) ** min(max(place, 0.0), 1.0):.1e}")
