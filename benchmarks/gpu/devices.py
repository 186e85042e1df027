"""One model on two devices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.gpu.accelerator import accelerator
from benchmarks.gpu.section import Row, Section, Sizes, section
from benchmarks.gpu.trial import Gradients, Model, Trial, engines, largest_difference

_ABOUT = (
    "A model whose halves are on two devices takes three steps. Each half must end with the weights that it has in"
    " the same model when that is on the half's device as a whole."
)
_STEPS = 3
_CLOSE = 1e-5


def run(device: str, sizes: Sizes) -> Section:
    """Step every engine on two devices."""
    return section("several devices", _ABOUT, engines(), lambda name: row(name, device, sizes), sizes.deadline)


def row(name: str, device: str, sizes: Sizes) -> Row:
    """Step one optimizer on two devices, and on each alone."""
    pair = accelerator(device).pair
    apart = stepped(name, pair, sizes)
    off = [
        largest_difference(apart[half], stepped(name, (where, where), sizes)[half]) for half, where in enumerate(pair)
    ]
    told = [
        f"within {each:.0e} on {where}" if each else f"bit-equal on {where}"
        for each, where in zip(off, pair, strict=True)
    ]
    return Row(name, "pass" if all(each <= _CLOSE for each in off) else "fail", ", ".join(told))


def stepped(name: str, places: tuple[str, str], sizes: Sizes) -> nn.ModuleList:
    """Return two halves of a model after some steps."""
    torch.manual_seed(0)
    halves = [Model(*sizes.stepped) for _ in places]
    model = nn.ModuleList(half.to(place) for half, place in zip(halves, places, strict=True))
    generator = torch.Generator().manual_seed(1)

    def draw(parameter: Tensor) -> Tensor:
        # drawn on the CPU, since other devices draw other numbers
        return torch.randn(parameter.shape, generator=generator).to(parameter.device)

    Trial(name, model, gradients=Gradients(model, draw)).steps(_STEPS)
    return model
