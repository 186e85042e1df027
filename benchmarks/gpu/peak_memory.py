"""Predicted bytes beside those that the device's allocator has handed out."""

from __future__ import annotations

from benchmarks.gpu.accelerator import accelerator
from benchmarks.gpu.section import Row, Section, Sizes, section
from benchmarks.gpu.trial import Trial, any_basis, engines, model_on

_ABOUT = (
    "`plan(...).footprint()` against `torch.cuda.memory_allocated()` after a step with gradients filled by hand, and"
    " against `max_memory_allocated()` in the next one. What is held must be what was predicted; a step's peak may be"
    " above it by its temporaries. All gradients are counted, since here a step consumes them and no backward pass."
)
_YARDSTICKS = ("adamw_torch", "adamw_torch_fused")
_ROUNDED = 512
"""Bytes to which CUDA's allocator rounds a tensor up."""
_CLOSE = 0.01
_MB = 1e6


def run(device: str, sizes: Sizes) -> Section:
    """Measure every engine."""
    names = [*engines(), *_YARDSTICKS]
    return section("peak memory", _ABOUT, names, lambda name: row(name, device, sizes), sizes.deadline)


def row(name: str, device: str, sizes: Sizes) -> Row:
    """Measure one optimizer."""
    here = accelerator(device)
    with any_basis():
        # libraries keep a workspace from their first call on, which is nobody's state
        Trial(name, model_on(device, sizes.stepped)).steps(1)
        here.tidy()
        before = here.allocated(lambda: 0)
        trial = Trial(name, model_on(device, sizes.timed), rank=sizes.rank)
        trial.steps(1)
    trial.gradients.give()
    spare = trial.gradients.bytes

    def counted() -> int:
        return trial.parameter_bytes + trial.given_bytes + trial.state_bytes + spare

    footprint = trial.plan.footprint()
    if footprint.state is None:
        return Row(name, "fail", f"nothing predicted: {footprint.state_from}")
    predicted = footprint.weights + trial.given_bytes + footprint.state
    held = here.allocated(counted) - before - spare
    peak = here.peak(trial.step, counted) - before - spare
    tensors = sum(1 for _ in trial.model.parameters()) + sum(len(each) for each in trial.optimizer.state.values())
    numbers = {
        "predicted MB": predicted / _MB,
        "held MB": held / _MB,
        "peak of a step MB": peak / _MB,
        "peak / predicted": peak / predicted,
    }
    off = abs(held - predicted)
    kept = off <= _ROUNDED * 2 * tensors + _CLOSE * predicted
    return Row(name, "pass" if kept else "fail", f"held is {off / predicted:.2%} off what was predicted", numbers)
