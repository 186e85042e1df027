"""Which optimizers to take for a model within so much memory: those that fit, the best evidence first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from torch import nn

from anyoptim.engines.packing import HALF
from anyoptim.errors import OptimError
from anyoptim.memory.footprint import Footprint, sharding
from anyoptim.names.lookup import optimizer_info
from anyoptim.planning.evidence import BASELINE, Evidence, evidence, evidence_of, tasks
from anyoptim.planning.plan import plan
from anyoptim.planning.suggestions import suited_arguments
from anyoptim.text import format_bytes

SHOWN = 5
"""So many are recommended at most."""
TASKS = {"pretrain": "bytes", "finetune": "finetune", "lora": "finetune"}
"""What a user is up to, and the task whose evidence is nearest."""
ROOM = 0.1
"""This part of the memory is kept for activations."""
_PACKED, _PACKED_STATE = "master_weights=24bit,state_dtype=int8", "state_dtype=int8"
_FUSED, _ON_HOST = "fused_backward=true", "offload=cpu"
_PRICES = {
    _ON_HOST: "state moves between host and card in each step",
    _FUSED: "gradients cannot be clipped by their norm",
    "state_dtype=int8": "state in 8 bits",
}
"""What a setting costs, for a person."""


@dataclass(frozen=True)
class Recommendation:
    """An optimizer that fits.

    Args:
        name: its name.
        arguments: the fields of TrainingArguments to write.
        footprint: what the fullest process holds.
        advice: what the plan has to say.
        evidence: how it did on the nearest task; ``None`` where it was not measured.
        why: why it is recommended.
        cost: what it costs beside memory.
    """

    name: str
    arguments: dict[str, object]
    footprint: Footprint
    advice: tuple[str, ...]
    evidence: Evidence | None
    why: str
    cost: str

    @property
    def line(self) -> str:
        """What to paste into ``TrainingArguments(...)``."""
        return ", ".join(f"{key}={json.dumps(value)}" for key, value in self.arguments.items())

    @property
    def on_host(self) -> bool:
        """Whether its state lies in the host's memory."""
        return bool(self.footprint.where)

    def to_dict(self) -> dict[str, object]:
        """Return it as plain values that JSON can hold."""
        return {
            "name": self.name,
            "training_arguments": self.arguments,
            "memory": self.footprint.to_dict(),
            "why": self.why,
            "cost": self.cost,
            "evidence": None if self.evidence is None else asdict(self.evidence),
            "advice": list(self.advice),
        }


@dataclass(frozen=True)
class LeftOut:
    """An optimizer that is not recommended although its evidence is better than that of one that is.

    Args:
        name: its name.
        why: a few words.
    """

    name: str
    why: str


@dataclass(frozen=True)
class Recommended:
    """What is recommended.

    Args:
        best: those that fit, best evidence first, those without evidence last.
        left_out: what would stand among them.
        unmeasured: how many of the names have no evidence and were not looked at.
    """

    best: tuple[Recommendation, ...]
    left_out: tuple[LeftOut, ...]
    unmeasured: int


def recommend(
    model: nn.Module,
    memory: int,
    names: Iterable[str],
    *,
    task: str = "finetune",
    ranks: int = 1,
    how: str = "fsdp2",
    every: bool = False,
    on_each: Callable[[str], None] = lambda _: None,
) -> Recommended:
    """Find the optimizers to take for a model.

    A name is planned as it is and, where it does not fit so, with weights and state packed, with
    ``fused_backward=true``, with both, and with its state on the host; weights in bf16 are packed first. A tenth of the
    memory is kept for activations. Where the best ones fit only with state on the host, the best that does without
    takes the last place.

    Args:
        model: the model, which may be on the meta device.
        memory: bytes of one process.
        names: registered names that may be taken.
        task: ``"pretrain"``, ``"finetune"`` or ``"lora"``.
        ranks: processes.
        how: how they share the memory; see ``Plan.footprint``.
        every: all that fits, also what has no evidence, instead of the best five.
        on_each: told each name before it is planned.
    """
    search = _Search(model, memory, TASKS[task], ranks, how, on_each)
    allowed = {optimizer_info(name).name for name in names}
    measured = [each.name for each in evidence(TASKS[task]) if not each.optim_args]
    best: list[Recommendation] = []
    left_out: list[LeftOut] = []
    for name in measured:
        if len(best) >= SHOWN and not every:
            break
        if name not in allowed:
            if not optimizer_info(name).installed:
                left_out.append(LeftOut(name, f"not installed: {optimizer_info(name).default.pip_install}"))
            continue
        found = search.fitting(name)
        if isinstance(found, Recommendation):
            best.append(found)
        else:
            left_out.append(LeftOut(name, found))
    unmeasured = sorted(allowed - set(measured))
    if every:
        others = [each for each in map(search.fitting, unmeasured) if isinstance(each, Recommendation)]
        best += sorted(others, key=lambda each: (each.footprint.total or 0, each.name))
        unmeasured = []
    elif len(best) == SHOWN and all(each.on_host for each in best):
        best[-1:] = [search.without_host(name for name in measured if name in allowed) or best[-1]]
    return Recommended(tuple(best), tuple(left_out), len(unmeasured))


class _Search:
    """Plans names for a model until they fit; arguments as of :func:`recommend`."""

    def __init__(
        self, model: nn.Module, memory: int, task: str, ranks: int, how: str, on_each: Callable[[str], None]
    ) -> None:
        self._model, self._memory, self._task, self._ranks, self._how = model, memory, task, ranks, how
        self._tell = on_each
        self._width = getattr(getattr(model, "config", None), "hidden_size", None)
        self._fields = dict(sharding(how).fields if ranks > 1 else ())
        self._half = any(each.requires_grad and each.dtype in HALF for each in model.parameters())

    def fitting(self, name: str, *, host: bool = True) -> Recommendation | str:
        """Return what fits of a name, or why nothing does.

        Args:
            name: a registered name.
            host: state may lie in the host's memory.
        """
        if "memory" in optimizer_info(name).default.limits:
            return "its memory may grow later"
        self._tell(name)
        least, refused = None, ""
        for optim_args in _ways(name, half=self._half):
            if _ON_HOST in optim_args and not host:
                continue
            arguments = suited_arguments(name, width=self._width, optim_args=optim_args)
            try:
                planned = plan(name, self._model, {**self._fields, **arguments})
                found = planned.footprint(self._ranks, self._how)
            except OptimError as error:
                # another device, a kind of model that it does not take, a process group that it cannot use
                refused = str(error)
                break
            if found.total is None:
                return "its memory is not known"
            if found.total <= self._memory * (1 - ROOM):
                return self._recommended(name, arguments, found, planned.advice)
            least = min(found.total, least or found.total)
        return refused if least is None else f"takes {format_bytes(least)} at least"

    def without_host(self, names: Iterable[str]) -> Recommendation | None:
        """Return the first of some names that fits with nothing in the host's memory."""
        tried = (self.fitting(name, host=False) for name in names)
        return next((each for each in tried if isinstance(each, Recommendation)), None)

    def _recommended(
        self, name: str, arguments: dict[str, object], found: Footprint, advice: tuple[str, ...]
    ) -> Recommendation:
        measured = evidence_of(name, self._task)
        args = str(arguments.get("optim_args", "")).split(",")
        return Recommendation(
            name, arguments, found, advice, measured, _why(measured), "; ".join(_costs(name, measured, args))
        )


def _why(measured: Evidence | None) -> str:
    """Say how it did, against AdamW."""
    if measured is None:
        return "it fits; no evidence of how well it does"
    found = evidence(measured.task)
    baseline = evidence_of(BASELINE, measured.task)
    place = [each.label for each in found].index(measured.label) + 1
    rank = "best" if place == 1 else f"number {place}"
    title = tasks()[measured.task].title
    loss = f"held-out loss {measured.loss:.2f} on the {title} task ({measured.lowest:.2f} to {measured.highest:.2f})"
    if baseline is None or measured.label == baseline.label:
        return f"{loss}, {rank} of {len(found)}; what most runs use"
    alike = measured.lowest <= baseline.highest and baseline.lowest <= measured.highest
    beside = "as AdamW, within the seeds" if alike else f"{measured.loss - baseline.loss:+.2f} against AdamW"
    return f"{loss}, {beside}; {rank} of {len(found)}"


def _costs(name: str, measured: Evidence | None, optim_args: Sequence[str]) -> Iterator[str]:
    """Yield what it costs beside memory."""
    if measured is not None and measured.step is not None:
        yield f"a step takes {measured.step:.1f} of AdamW's on a CPU"
    packed = None if measured is None else evidence_of(name, measured.task, _PACKED_STATE)
    for setting, price in _PRICES.items():
        if setting in optim_args:
            change = (
                f" ({packed.loss - measured.loss:+.3f} nats)"
                if setting in _PACKED_STATE and packed and measured
                else ""
            )
            yield price + change


def _ways(name: str, *, half: bool) -> Iterator[str]:
    """Yield what may be added to a name's arguments, the least change first.

    Args:
        name: a registered name.
        half: the weights are in bf16 or fp16.
    """
    spec = optimizer_info(name)
    has = {each.name for each in spec.hyperparameters}
    fused = _FUSED if "fused_backward" in has and not spec.fused_backward else ""
    packed = "" if "state_dtype" not in has else _PACKED if half else _PACKED_STATE
    both = ",".join(filter(None, [packed, fused]))
    elsewhere = f"{both},{_ON_HOST}" if packed else both
    # steps on plain weights in 16 bits lose most of what a usual rate moves
    ways = (packed, both, elsewhere, "", fused) if half else ("", packed, fused, both, elsewhere)
    yield from dict.fromkeys(ways)
