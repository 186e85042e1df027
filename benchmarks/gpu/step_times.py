"""How long a step takes: ours, the package's, torch's fused AdamW, and what the memory's bandwidth allows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version

from benchmarks.gpu.accelerator import Action, accelerator
from benchmarks.gpu.section import Row, Section, Sizes, first_line, section
from benchmarks.gpu.trial import Trial, any_basis, engines, model_on, upstream_of

_ABOUT = (
    "Medians of `step()` with given gradients, all of a row in turn on the same weights. The floor is the time to read"
    " weights, gradients and state once and to write weights and state, at the bandwidth of a copy on this device;"
    " the last column is floor / time. Decompositions, once in 200 steps, are not in it."
)
_YARDSTICK = "adamw_torch_fused"


def run(device: str, sizes: Sizes) -> Section:
    """Time every engine."""
    bench = Bench(device, sizes)
    names = [_YARDSTICK, *engines()]
    return section("step times", _ABOUT, names, bench.row, sizes.deadline)


class Bench:
    """A model that all contestants step, since as many models would not fit; made when the first one is timed."""

    def __init__(self, device: str, sizes: Sizes) -> None:
        self.here, self.sizes = accelerator(device), sizes

    @cached_property
    def bandwidth(self) -> float:
        """Bytes a second."""
        return self.here.bandwidth(self.sizes.copied)

    @cached_property
    def yardstick(self) -> Trial:
        """torch's fused AdamW, which brings the model."""
        trial = Trial(_YARDSTICK, model_on(self.here.device, self.sizes.timed))
        trial.steps(1)
        return trial

    def trial(self, name: str, optim_args: str = "") -> Trial:
        """Return an optimizer on the shared model, after its first step."""
        with any_basis():
            trial = Trial(
                name,
                self.yardstick.model,
                optim_args,
                rank=self.sizes.rank,
                gradients=self.yardstick.gradients,
            )
            trial.steps(1)
        return trial

    def row(self, name: str) -> Row:
        """Time one name beside its rivals."""
        self.here.tidy()
        contestants = {"fused": self.yardstick, "ours": self.trial(name)}
        upstream, evidence = upstream_of(name)
        if upstream is not None:
            try:
                contestants["upstream"] = self.trial(name, "implementation=upstream")
                evidence = f"upstream is {upstream.package} {_version(upstream.package)}"
            except Exception as error:  # a stranger's
                evidence = f"{upstream.package} fails: {first_line(error)}"
        medians = self.here.medians({key: _ready(trial) for key, trial in contestants.items()}, self.sizes.repeats)
        ours = contestants["ours"]
        floor = (3 * ours.parameter_bytes + 2 * ours.state_bytes) / self.bandwidth
        numbers = {
            "ms": medians["ours"] * 1e3,
            **({"upstream ms": medians["upstream"] * 1e3} if "upstream" in medians else {}),
            **({"/ upstream": medians["ours"] / medians["upstream"]} if "upstream" in medians else {}),
            "/ fused AdamW": medians["ours"] / medians["fused"],
            "of the floor": floor / medians["ours"],
        }
        return Row(name, "measured", evidence, numbers)


def _ready(trial: Trial) -> Callable[[], Action]:
    def prepare() -> Action:
        trial.gradients.give()
        return trial.step

    return prepare


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
