"""Whether a step of ours waits for the device."""

from __future__ import annotations

from benchmarks.gpu.accelerator import accelerator
from benchmarks.gpu.section import Row, Section, Sizes, first_line, section
from benchmarks.gpu.trial import Trial, engines, model_on

_ABOUT = (
    "A backward pass and a step must not ask for a value that the device computes"
    ' (`torch.cuda.set_sync_debug_mode("error")`); what the first step does, which makes the state and decomposes'
    " matrices, is told and not judged."
)
_STEPS = 3


def run(device: str, sizes: Sizes) -> Section:
    """Step every engine with the alarm on."""
    return section("no waiting", _ABOUT, engines(), lambda name: row(name, device, sizes), sizes.deadline)


def row(name: str, device: str, sizes: Sizes) -> Row:
    """Step one optimizer with the alarm on."""
    here = accelerator(device)
    waits = ""
    trial = Trial(name, model_on(device, sizes.stepped))
    try:
        with here.no_waiting(trial.counts_steps):
            trial.train()
    except RuntimeError as error:
        waits = first_line(error)
        # a step that was stopped half-way leaves half a state
        trial = Trial(name, model_on(device, sizes.stepped))
        trial.train()
    try:
        with here.no_waiting(trial.counts_steps):
            for _ in range(_STEPS):
                trial.train()
    except RuntimeError as error:
        return Row(name, "fail", first_line(error))
    return Row(name, "pass", f"{_STEPS} steps; the first one waits ({waits})" if waits else f"{_STEPS + 1} steps")
