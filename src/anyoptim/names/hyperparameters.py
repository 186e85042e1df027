"""One keyword that an optimizer takes, as plain data: its type, default, range and whose it is."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Final, Literal

Scope = Literal["optimizer", "target", "facade", "fallback", "wrapper", "groups", "routing"]


class _Marker:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


REQUIRED: Final = _Marker("required")
"""The default of a hyperparameter that has none."""

ITS_OWN: Final = _Marker("its own")
"""A default that is no plain value (a function, a marker): the constructor is not given the keyword."""


@dataclass(frozen=True)
class Interval:
    """The numbers a hyperparameter may take; ``str()`` writes it as mathematics does."""

    low: float = float("-inf")
    high: float = float("inf")
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def outside(self, value: object) -> Real | None:
        """Return the first number of a value, or of a sequence of them, that is not within; ``None`` if all are."""
        for number in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(number, Real) and as_float(number) not in self:
                return number
        return None

    def __str__(self) -> str:
        if self.low == float("-inf"):
            return f"{'<' if self.open_high else '<='} {self.high:g}"
        if self.high == float("inf"):
            return f"{'>' if self.open_low else '>='} {self.low:g}"
        return f"in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


def as_float(number: Real | float) -> float:
    """Return a number as a float, infinite where it is beyond all of them."""
    try:
        return float(number)
    except OverflowError:  # an integer of hundreds of digits
        return float("inf") if abs(number) == number else float("-inf")


@dataclass(frozen=True)
class Hyperparameter:
    """One keyword that ``optim_args`` accepts.

    Args:
        name: the name in the paper or the backing constructor.
        type: its annotation (``float``, ``bool | None``, ``tuple[float, float]``, ``Literal[...]``,
            ``"torch.dtype"``), which decides how text is read. ``None``: read by the look of it.
        default: the value when nobody sets it, or ``REQUIRED``, or ``ITS_OWN``.
        help: one line for a person.
        within: the allowed range, of each element for a tuple.
        scope: ``"optimizer"``: a constructor keyword, for every group. ``"target"``: a key of the
            groups that hold target modules only. ``"facade"``: read by the plan, which wraps what it builds.
            ``"fallback"``: a constructor keyword of the optimizer of all that is no target, ``fallback_`` before its
            own name. ``"wrapper"``: a constructor keyword of a wrapper, the wrapper's name before its own.
            ``"groups"``: overrides of single groups, which every optimizer takes. ``"routing"``: read by the plan,
            which groups parameters by it.
        taken_from: the field of TrainingArguments, ``args.max_steps``, or of the model's configuration,
            ``config.hidden_size``, that gives the value where the user does not.
        member: the optimizer inside a hybrid, or the wrapper around one, that takes it; empty: the spec's own.
        keyword: its name there; the same unless a member's name stands before it.
    """

    name: str
    type: object
    default: object = REQUIRED
    help: str = ""
    within: Interval | None = None
    scope: Scope = "optimizer"
    taken_from: str = ""
    member: str = ""
    keyword: str = ""

    def __post_init__(self) -> None:
        if not self.keyword:
            object.__setattr__(self, "keyword", self.name)


FUSED_BACKWARD = Hyperparameter(
    "fused_backward", bool, False, "update inside the backward pass, so gradients never pile up", scope="facade"
)
OWNED = Hyperparameter(
    "owned",
    bool,
    False,
    "under DDP each parameter is stepped by one process, which alone holds its state",
    scope="facade",
)
MASTER_WEIGHTS = Hyperparameter(
    "master_weights",
    Literal["own", "24bit", "32bit", "stochastic", "kahan"],
    "own",
    "what lies behind weights in bf16 or fp16 between steps",
    scope="facade",
)
STATE_DTYPE = Hyperparameter(
    "state_dtype",
    Literal["own", "fp32", "bf16", "int8", "int4"],
    "own",
    "how state of a parameter's size is held between steps",
    scope="facade",
)
OFFLOAD = Hyperparameter(
    "offload",
    Literal["none", "cpu", "disk"],
    "none",
    "where state and what lies behind weights are held between steps",
    scope="facade",
)
OFFLOAD_DIR = Hyperparameter(
    "offload_dir", str | None, None, "folder of offload=disk; none: the system's for temporary files", scope="facade"
)
SAVE_FP32 = Hyperparameter(
    "save_fp32", bool, False, "the Trainer saves the model in fp32, with what lies behind its weights", scope="facade"
)
COMPILED_STEP = Hyperparameter(
    "compiled_step",
    bool,
    False,
    "compile unpacking and packing, and the step with them where there is a form for it",
    scope="facade",
)
STORAGE = (MASTER_WEIGHTS, STATE_DTYPE, OFFLOAD, OFFLOAD_DIR, SAVE_FP32, COMPILED_STEP)
"""What :class:`anyoptim.engines.stored.Stored` is told."""
WHERE_AND_WHEN = (FUSED_BACKWARD, OWNED, *STORAGE)
"""For implementations whose step updates each parameter from its own gradient, state and group alone."""
MONITOR = Hyperparameter(
    "monitor",
    bool,
    False,
    "measure updates, zero updates, gradients and rates by role and by layer, for logs and optimizer.monitor",
    scope="facade",
)
"""What every optimizer takes, whatever its spec says: no step depends on it."""


def coupling(reason: str) -> dict[str, str]:
    """Return why an implementation whose step couples parameters cannot step on one alone, by each keyword."""
    return dict.fromkeys((each.name for each in (FUSED_BACKWARD, *STORAGE)), reason)
