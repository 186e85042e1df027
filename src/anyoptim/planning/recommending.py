"""Which optimizers to take for a model within so much memory: those that fit, the best evidence first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache

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
TASKS = {"pretrain": ("bytes",), "finetune": ("finetune", "bytes"), "lora": ("finetune", "bytes")}
"""What a user is up to, and the tasks whose evidence counts; the seeds of one short fine-tune alone lie far apart."""
ROOM = 0.1
"""This part of the memory is kept for activations."""
_PACKED, _PACKED_STATE = "master_weights=24bit,state_dtype=int8", "state_dtype=int8"
_FUSED, _ON_HOST = "fused_backward=true", "offload=cpu"
_PRICES = {
    _ON_HOST: "state moves between host and card in each step",
    _FUSED: "gradients cannot be clipped by their norm",
    _PACKED_STATE: "state in 8 bits",
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
        evidence: how it did on the tasks that count, the nearest first; empty where it was not measured.
        why: why it is recommended.
        cost: what it costs beside memory.
    """

    name: str
    arguments: dict[str, object]
    footprint: Footprint
    advice: tuple[str, ...]
    evidence: tuple[Evidence, ...]
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
            "evidence": [asdict(each) for each in self.evidence],
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
    search = _Search(model, memory, task, ranks, how, on_each)
    allowed = {optimizer_info(name).name for name in names}
    measured = ranked(task)
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
        self._found: dict[tuple[str, str], tuple[Footprint, tuple[str, ...]]] = {}
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
                found, advice = self._planned(name, optim_args, arguments)
            except OptimError as error:
                # another device, a kind of model that it does not take, a process group that it cannot use
                refused = str(error)
                break
            if found.total is None:
                return "its memory is not known"
            if found.total <= self._memory * (1 - ROOM):
                return self._recommended(name, arguments, found, advice)
            least = min(found.total, least or found.total)
        return refused if least is None else f"takes {format_bytes(least)} at least"

    def without_host(self, names: Iterable[str]) -> Recommendation | None:
        """Return the first of some names that fits with nothing in the host's memory."""
        tried = (self.fitting(name, host=False) for name in names)
        return next((each for each in tried if isinstance(each, Recommendation)), None)

    def _planned(self, name: str, optim_args: str, arguments: dict[str, object]) -> tuple[Footprint, tuple[str, ...]]:
        """Return what a name holds with some arguments and what is said of it; planned once."""
        key = name, optim_args
        if key not in self._found:
            planned = plan(name, self._model, {**self._fields, **arguments})
            self._found[key] = planned.footprint(self._ranks, self._how), planned.advice
        return self._found[key]

    def _recommended(
        self, name: str, arguments: dict[str, object], found: Footprint, advice: tuple[str, ...]
    ) -> Recommendation:
        measured = tuple(filter(None, (evidence_of(name, each) for each in TASKS[self._task])))
        args = str(arguments.get("optim_args", "")).split(",")
        why = _why(name, measured, self._task)
        return Recommendation(name, arguments, found, advice, measured, why, "; ".join(_costs(name, measured, args)))


@cache
def ranked(task: str) -> tuple[str, ...]:
    """Return the names that were measured for what a user is up to, the best first: by the mean gap to AdamW.

    Args:
        task: one of ``TASKS``.
    """
    gaps: dict[str, list[float]] = {}
    for one in TASKS[task]:
        baseline = evidence_of(BASELINE, one)
        for each in evidence(one):
            if not each.optim_args and "(" not in each.name and baseline is not None:
                gaps.setdefault(each.name, []).append(each.loss - baseline.loss)
    whole = {name: sum(each) for name, each in gaps.items() if len(each) == len(TASKS[task])}
    return tuple(sorted(whole, key=lambda name: (whole[name], name)))


def _why(name: str, measured: Sequence[Evidence], task: str) -> str:
    """Say how it did, against AdamW."""
    if not measured:
        return "it fits; no evidence of how well it does"
    order = ranked(task)
    place = f"number {order.index(name) + 1} of {len(order)}" if name in order else "not ranked"
    losses = "; ".join(f"{tasks()[each.task].title} {each.loss:.2f}, {_beside(each)}" for each in measured)
    return f"{place} by held-out loss: {losses}"


def _beside(each: Evidence) -> str:
    baseline = evidence_of(BASELINE, each.task)
    if baseline is None or each.name == baseline.name:
        return f"{each.lowest:.2f} to {each.highest:.2f} over {each.seeds} seeds"
    if each.lowest <= baseline.highest and baseline.lowest <= each.highest:
        return f"as AdamW ({baseline.loss:.2f}) within the seeds"
    return f"{each.loss - baseline.loss:+.2f} against AdamW"


def _costs(name: str, measured: Sequence[Evidence], optim_args: Sequence[str]) -> Iterator[str]:
    """Yield what it costs beside memory."""
    if measured and measured[0].step is not None:
        yield f"a step takes {measured[0].step:.1f} of AdamW's on a CPU"
    for setting, price in _PRICES.items():
        if setting in optim_args:
            yield price
    for each in measured:
        packed = evidence_of(name, each.task, _PACKED_STATE) if _PACKED_STATE in optim_args else None
        if packed is not None:
            yield f"{packed.loss - each.loss:+.3f} nats for that on {tasks()[each.task].title}"


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
