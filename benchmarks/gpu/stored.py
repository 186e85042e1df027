"""Weights and state in fewer bytes: whether a device packs the same bits, and what a step costs beside other ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from anyoptim.engines import packing
from anyoptim.errors import OptimError
from benchmarks.gpu import step_times
from benchmarks.gpu.accelerator import Action
from benchmarks.gpu.section import Row, Section, Sizes, first_line, section
from benchmarks.gpu.trial import Model, Trial, largest_difference, model_on

_ABOUT = (
    "First what must be equal to the bit: packing here and on the CPU, and steps on state that lies elsewhere. Then"
    " medians of `step()` with given gradients in bf16, each in turn with torch's fused AdamW, which packs nothing. The"
    " floor is the time to read weights, gradients and state once and to write weights and state, at the bandwidth of a"
    " copy; or to fetch what lies elsewhere from the host, if that takes longer. Bytes are those of the allocator."
)
_YARDSTICK = "adamw_torch_fused"
_PACKED = "master_weights=24bit,state_dtype=int8"
OURS = (
    "adamw_torch master_weights=32bit",
    f"adamw_torch {_PACKED}",
    f"adamw_torch {_PACKED},compiled_step=true",
    "adamw_torch master_weights=24bit,state_dtype=int4",
    "adamw_torch master_weights=stochastic,state_dtype=int8",
    f"adamw_torch {_PACKED},offload=cpu",
)
RIVALS = ("flashoptim:FlashAdamW", "adamw_8bit", "adamw_torch_8bit", "cpu_offload(adamw_torch)")
"""Where one of them cannot be had, its row says so."""
ELSEWHERE = ("offload=cpu", "offload=disk")
_PACKING = "packing"
_STEPS = 5
_MB = 1e6


def run(device: str, sizes: Sizes) -> Section:
    """Compare the bits, then time every contestant."""
    bench = Bench(device, sizes)

    def row(name: str) -> Row:
        if name == _PACKING:
            return packing_row(device)
        return elsewhere_row(name, device, sizes) if name in ELSEWHERE else bench.row(name)

    names = [_PACKING, *ELSEWHERE, _YARDSTICK, *OURS, *RIVALS]
    return section("packed state", _ABOUT, names, row, sizes.deadline)


# ---------------------------------------------------------------- bits


def packing_row(device: str) -> Row:
    """Pack and unpack the same values on the device and on the CPU."""
    here, there = [[(name, each.cpu()) for name, each in _packed(where)] for where in (device, "cpu")]
    off = {
        name: count
        for (name, mine), (_, theirs) in zip(here, there, strict=True)
        if (count := int((_bits(mine) != _bits(theirs)).sum()))
    }
    if off:
        told = ", ".join(f"{count} of {name}" for name, count in off.items())
        return Row(_PACKING, "fail", f"other bits than on the CPU: {told}")
    return Row(_PACKING, "pass", f"{len(here)} results, the same bits as on the CPU")


def _packed(device: str) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)  # drawn on the CPU, since other devices draw other numbers
    sizes = 10.0 ** torch.empty(64, 1000).uniform_(-42, 38, generator=generator)
    values = torch.randn(64, 1000, generator=generator) * sizes
    noise = torch.randint(0, 2**16, values.shape, generator=generator, dtype=torch.int32).to(device)
    odd = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-45, 3.4e38, 65520.0, 2.0**-14])
    wide = torch.cat([values.flatten(), odd]).to(device)
    for dtype in sorted(packing.HALF, key=str):
        for bits in (24, 32):
            low, remainder = packing.split(wide, dtype, bits)
            yield from _named(f"split {dtype} {bits}", low, remainder)
            yield from _named(f"join {dtype} {bits}", packing.join(low, remainder))
            yield from _named(f"behind {dtype} {bits}", packing.behind(low, wide, bits))
        rounded = packing.round_stochastically(values.to(device), dtype, noise)
        yield from _named(f"stochastic {dtype}", rounded)
    moments = torch.randn(64, 1000, generator=generator) * 1e-3
    for kind, state in (("first moment", moments), ("second moment", moments.square())):
        for bits in (8, 4):
            codes, scales = packing.pack(state.to(device), bits)
            yield from _named(f"pack {kind} {bits}", codes, scales)
            yield from _named(f"unpack {kind} {bits}", packing.unpack(codes, scales, bits, state.shape))


def _named(name: str, *tensors: Tensor) -> Iterator[tuple[str, Tensor]]:
    return ((f"{name} ({number})", each) for number, each in enumerate(tensors))


def _bits(values: Tensor) -> Tensor:
    """Return values as integers, since NaN equals nothing."""
    return values.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[values.element_size()])


def elsewhere_row(setting: str, device: str, sizes: Sizes) -> Row:
    """Step on state that is fetched while the batch before steps, and on state that lies beside its parameters."""
    fetched, beside = (
        Trial("adamw_torch", _half(device, sizes.timed), optim_args) for optim_args in (f"{_PACKED},{setting}", _PACKED)
    )
    for each in (fetched, beside):
        each.steps(_STEPS)
    largest = largest_difference(fetched.model, beside.model)
    if largest != 0.0:
        return Row(setting, "fail", f"other weights after {_STEPS} steps: by {largest:.1e}")
    return Row(setting, "pass", f"the same weights, to the bit, after {_STEPS} steps")


def _half(device: str, shape: tuple[int, int, int]) -> Model:
    return model_on(device, shape).to(torch.bfloat16)


# ---------------------------------------------------------------- time and bytes


class Bench(step_times.Bench):
    """The same in bf16, and with the link to the host."""

    @cached_property
    def link(self) -> float:
        """Bytes a second from the host to the device."""
        return self.here.link(self.sizes.copied)

    @cached_property
    def yardstick(self) -> Trial:
        """torch's fused AdamW, which brings the model."""
        trial = Trial(_YARDSTICK, _half(self.here.device, self.sizes.stored))
        trial.steps(1)
        return trial

    def row(self, label: str) -> Row:
        """Time one contestant, given with its ``optim_args`` after a space."""
        fused = self.yardstick
        fused.gradients.give()
        self.here.tidy()
        name, _, optim_args = label.partition(" ")
        before = self.here.allocated(lambda: 0)
        try:
            trial = Trial(name, fused.model, optim_args, gradients=fused.gradients)
            trial.steps(1)
        except Exception as error:  # a stranger's may raise anything
            if not isinstance(error, OptimError) and label not in RIVALS:
                raise
            return Row(label, "n/a", first_line(error))
        trial.gradients.give()
        self.here.tidy()
        held = self.here.allocated(lambda: trial.state_bytes) - before
        peak = self.here.peak(trial.step, lambda: before + held) - before - held
        medians = self.here.medians(
            {key: _ready(each) for key, each in (("fused", fused), ("it", trial))}, self.sizes.repeats
        )
        elements = sum(each.numel() for each in trial.model.parameters())
        elsewhere = max(0, trial.state_bytes - held)
        floor = max((3 * trial.parameter_bytes + 2 * held) / self.bandwidth, elsewhere / self.link)
        numbers = {
            "ms": medians["it"] * 1e3,
            "/ fused AdamW": medians["it"] / medians["fused"],
            "of the floor": floor / medians["it"],
            "bytes of state each": held / elements,
            "elsewhere": elsewhere / elements,
            "temporaries MB": peak / _MB,
        }
        return Row(label, "measured", "", numbers)


def _ready(trial: Trial) -> Callable[[], Action]:
    def prepare() -> Action:
        trial.gradients.give()
        return trial.step

    return prepare
