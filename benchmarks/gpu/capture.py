"""Whether a step in a CUDA graph does what it does outside of one, or is refused; silence in between is a failure."""

from __future__ import annotations

from anyoptim.errors import OptimError
from benchmarks.gpu.accelerator import accelerator
from benchmarks.gpu.section import Row, Section, Sizes, section
from benchmarks.gpu.trial import Trial, engines, largest_difference, model_on

_ABOUT = (
    "A step is captured in a CUDA graph and replayed: the weights must be those of as many steps outside of one, or"
    " the capture must be refused. torch's own stand beside ours."
)
_YARDSTICKS = ("adamw_torch", "sgd")
_CAPTURABLE = "adamw_torch:capturable=true"
_BEFORE, _REPLAYED = 3, 3


def run(device: str, sizes: Sizes) -> Section:
    """Capture every engine."""
    names = [*engines(), *_YARDSTICKS]
    if accelerator(device).has_graphs:  # elsewhere torch does not even step with it
        names.append(_CAPTURABLE)
    return section("CUDA graphs", _ABOUT, names, lambda name: row(name, device, sizes), sizes.deadline)


def row(label: str, device: str, sizes: Sizes) -> Row:
    """Capture one optimizer, given with its ``optim_args`` after a colon."""
    name, _, optim_args = label.partition(":")
    inside, outside = (Trial(name, model_on(device, sizes.stepped), optim_args) for _ in range(2))
    for each in (inside, outside):
        each.steps(_BEFORE)
        each.gradients.give()
    try:
        replay = accelerator(device).captured(inside.step)
    except (OptimError, RuntimeError) as error:
        return Row(label, "pass", f"refused by {type(error).__name__}", details={"refusal": str(error)})
    if replay is None:
        return Row(label, "n/a", "not refused, and there are no graphs here")
    for _ in range(_REPLAYED):
        replay()
        outside.step()
    largest = largest_difference(inside.model, outside.model)
    if largest != 0.0:
        return Row(label, "fail", f"silently different: by {largest:.1e} after {_REPLAYED} replays")
    return Row(label, "pass", f"works: bit-equal after {_REPLAYED} replays")
