"""What an index holds of a constructor's keywords, and what packages mean by a keyword of that name.

Annotations are a few words there (``["union", "float", "none"]``), so that nothing is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, Union

from anyoptim.catalog._shared import CLIPS, DECAY, FRACTION, NON_NEGATIVE, NON_POSITIVE, POSITIVE
from anyoptim.names.hyperparameters import ITS_OWN, REQUIRED, Hyperparameter, Interval

_ITS_OWN = "its own"

_TYPES: dict[str, object] = {
    "float": float,
    "int": int,
    "bool": bool,
    "str": str,
    "none": type(None),
    "any": None,
    "dtype": "torch.dtype",
    "function": Callable[..., object],
    "...": ...,
}

_MEANINGS: dict[str, tuple[str, Interval | None]] = {
    "lr": ("learning rate", NON_NEGATIVE),
    "betas": ("decay rates of the moment estimates", DECAY),
    "eps": ("added to the denominator", NON_NEGATIVE),
    "weight_decay": ("weight decay", NON_NEGATIVE),
    "momentum": ("momentum factor", DECAY),
    "dampening": ("dampening of the momentum", FRACTION),
    "nesterov": ("Nesterov momentum", None),
    "amsgrad": ("keep the maximum of the second moment", None),
    "ams_bound": ("keep the maximum of the second moment", None),
    "maximize": ("ascend instead of descend", None),
    "foreach": ("update all tensors in batched calls", None),
    "fused": ("one kernel for the whole update", None),
    "capturable": ("safe to capture in a CUDA graph", None),
    "differentiable": ("let autograd record the step", None),
    "weight_decouple": ("decoupled weight decay", None),
    "decoupled_decay": ("decoupled weight decay", None),
    "decouple_wd": ("decoupled weight decay", None),
    "decoupled_weight_decay": ("decoupled weight decay", None),
    "corrected_weight_decay": ("weight decay relative to the highest learning rate", None),
    "fixed_decay": ("weight decay that does not scale with the learning rate", None),
    "decouple_lr": ("weight decay that does not scale with the learning rate", None),
    "max_lr": ("peak learning rate, for decouple_lr", POSITIVE),
    "kahan_sum": ("Kahan summation for low-precision weights", None),
    "triton": ("Triton kernels; none: where possible", None),
    "caution": ("drop what goes against the gradient's sign", None),
    "cautious": ("drop what goes against the gradient's sign", None),
    "cautious_weight_decay": ("decay only where it agrees with the update's sign", None),
    "trust_clip": ("no trust ratio above 1", None),
    "warmup_steps": ("steps of the optimizer's own warmup", NON_NEGATIVE),
    "clip_threshold": ("RMS at which an update is clipped", CLIPS),
    "max_grad_norm": ("norm to clip gradients at", NON_NEGATIVE),
    "optim_bits": ("bits of a moment", None),
    "min_8bit_size": ("elements below which a moment stays in 32 bits", NON_NEGATIVE),
    "is_paged": ("page the state to the CPU's memory when the GPU's is full", None),
    "percentile_clipping": ("clip at this percentile of the last 100 gradient norms; 100: off", None),
    "block_size": ("elements that share a scale", POSITIVE),
    "bf16_stochastic_round": ("round bfloat16 weights stochastically", None),
    "rank": ("rank of the projected gradient", None),
    "ns_steps": ("Newton-Schulz iterations", Interval(low=1, high=99)),
    "r": ("power of the step in the average's weights", None),
    "weight_lr_power": ("power of the learning rate in the average's weights", None),
    "precondition_frequency": ("steps between new preconditioners", POSITIVE),
    "d0": ("first estimate of the distance to the solution", POSITIVE),
    "d_coef": ("factor of the estimated step size", POSITIVE),
    "growth_rate": ("limit of the estimate's growth in a step", None),
    "alpha": ("smoothing constant or mixing factor", None),
    "rho": ("radius or decay rate", None),
}


_RANGES: dict[str, Interval] = {
    name: within
    for within, names in {
        DECAY: (
            "adamw_betas betas_1d beta beta0 beta1 beta2 beta3 shampoo_beta lower_bound_beta grafting_beta"
            " momentum_beta alignment_ema ema_rate compression_decay"
        ),
        NON_NEGATIVE: (
            "adamw_lr adamw_wd adamw_eps lr_1d lr_1d_factor weight_decay_1d eps1 eps2 eps_2 eps_scale matrix_eps"
            " diagonal_eps lr_decay initial_accumulator_value"
        ),
        NON_POSITIVE: "decay_rate beta2_decay",
    }.items()
    for name in names.split()
}
"""Of names that need no explanation. A package whose own default is outside means another thing by the name."""


def hyperparameters_from(rows: list[list[Any]]) -> Iterator[Hyperparameter]:
    """Yield what the rows of a constructor say: a keyword, its annotation and, where there is one, its default."""
    for name, kind, *default in rows:
        meaning, within = _MEANINGS.get(name, ("", _RANGES.get(name)))
        own = _default(default, kind)
        fits = within is not None and within.outside(own) is None
        yield Hyperparameter(name, decoded(kind), own, meaning, within if fits else None)


def _default(given: list[Any], kind: object) -> object:
    if not given:
        return REQUIRED
    value = given[0]
    if value == {_ITS_OWN: True}:
        return ITS_OWN
    return _tuples(value) if not (isinstance(kind, list) and kind[0] == "list") else value


def _tuples(value: object) -> object:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def decoded(kind: Any) -> object:
    """Return the annotation that an index holds as text or as a list."""
    if isinstance(kind, str):
        return _TYPES[kind]
    name, *arguments = kind
    if name == "literal":
        return Literal[tuple(arguments)]
    inner = tuple(decoded(each) for each in arguments)
    if name == "union":
        return Union[inner]  # noqa: UP007  # of as many as there are
    return tuple[inner] if name == "tuple" else list[inner[0]]  # type: ignore[valid-type]  # made here


def encoded_default(value: object) -> object:
    """Return a default as JSON can hold it; what is no plain value stands for itself."""
    if isinstance(value, (tuple, list)):
        return [encoded_default(each) for each in value]
    if isinstance(value, bool) or value is None or type(value) is str:
        return value
    if isinstance(value, (int, float)):  # an IntEnum, too
        return float(value) if isinstance(value, float) else int(value)
    return {_ITS_OWN: True}
