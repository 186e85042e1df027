"""The state of one parameter as it lies in memory between steps, and as its optimizer steps on it.

What is packed has a word after its key: ``exp_avg:int8`` with ``exp_avg:scale``, ``z:bf16`` with ``z:24bit``,
``weight:32bit``. So state says by itself how it is packed, and loads under other settings, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from anyoptim.engines import packing
from anyoptim.engines.noise import first_seed
from anyoptim.engines.transforms import EAGER, Transforms

WEIGHT = "weight"
"""What stands before the word of what lies behind a weight."""
SCALE = "scale"
ASIDE = "training_weight"
"""The key of weights that only a state dict has; they are in the parameter's dtype."""
_BITS = {"int8": 8, "int4": 4}
_REMAINDERS = {"24bit": 24, "32bit": 32}
_WORDS = frozenset({*_BITS, *_REMAINDERS, "bf16", "kahan", "stochastic", SCALE})


@dataclass(frozen=True)
class Storage:
    """How weights and state are held between steps.

    Args:
        master_weights: what lies behind weights in bf16 or fp16: ``own`` (nothing), ``24bit``, ``32bit``,
            ``stochastic`` or ``kahan``.
        state_dtype: of state of a parameter's shape: ``own``, ``fp32``, ``bf16``, ``int8`` or ``int4``.
        weights: keys of state that holds weights: at 24 bits where other state has fewer.
        exact: keys of state that stays as it is, such as rotations, which have a parameter's shape by chance.
        signs: keys of state whose sign is known, and whether it has negative values; of others each block is looked at.
    """

    master_weights: str = "own"
    state_dtype: str = "own"
    weights: frozenset[str] = frozenset()
    exact: frozenset[str] = frozenset()
    signs: tuple[tuple[str, bool], ...] = ()

    @property
    def steps_wide(self) -> bool:
        """Whether steps are in fp32, whatever the weights' dtype."""
        return (self.master_weights, self.state_dtype) != ("own", "own")

    def way_of(self, key: str, value: object, shape: torch.Size) -> str:
        """Return how a value of a parameter's state is packed; "" if it stays as it is."""
        if self.state_dtype in ("own", "fp32") or key in self.exact or len(shape) < 2:
            return ""
        packable = isinstance(value, Tensor) and value.shape == shape and value.dtype == torch.float32
        if not packable or not shape.numel() or is_traceable_wrapper_subclass(value):  # torchao's own packed state
            return ""
        return "24bit" if key in self.weights else self.state_dtype


def word_of(key: object) -> str:
    """Return the word after a key of state, if it is packed; "" otherwise."""
    own, _, word = key.rpartition(":") if isinstance(key, str) else ("", "", "")
    return word if own and word in _WORDS else ""


def is_remainder(key: object) -> bool:
    """Whether a key of state is of what lies behind a weight."""
    return isinstance(key, str) and key.startswith(f"{WEIGHT}:") and bool(word_of(key))


def has_rows(key: object, value: Any, shape: torch.Size) -> bool:
    """Whether a value of a parameter's state has its rows: it has its shape, or is packed."""
    if not isinstance(value, Tensor) or not value.dim():
        return False
    return value.shape == shape or (bool(word_of(key)) and value.shape[0] == shape[0])


def lies_by_rows(key: object) -> bool:
    """Whether a packed tensor has the rows of its parameter, but a length of its own."""
    return word_of(key) in (SCALE, "int4")


def length_of_rows(key: str, shape: torch.Size) -> int:
    """Return how long the rows of such a tensor are.

    Args:
        key: of state.
        shape: of the parameter.
    """
    return math.ceil(shape[1:].numel() / (packing.BLOCK if word_of(key) == SCALE else 2))


def state_packed(
    state: Mapping[str, Any], storage: Storage, shape: torch.Size, transforms: Transforms = EAGER
) -> dict[str, Any]:
    """Return the state of a parameter, or of some of its rows, packed.

    Args:
        state: as a step leaves it.
        storage: how it is held.
        shape: of the parameter, or of its rows.
        transforms: what packs.
    """
    packed: dict[str, Any] = {}
    for key, value in state.items():
        way = storage.way_of(key, value, shape)
        if way in _BITS:
            packed[f"{key}:{way}"], packed[f"{key}:{SCALE}"] = transforms.pack(
                value, _BITS[way], dict(storage.signs).get(key)
            )
        elif way == "24bit":
            packed[f"{key}:bf16"], packed[f"{key}:24bit"] = transforms.split(value, torch.bfloat16, 24)
        elif way == "bf16":
            packed[f"{key}:bf16"] = value.to(torch.bfloat16)
        else:
            packed[key] = value
    return packed


def remainders(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what lies behind a weight, of a parameter's state."""
    return {key: value for key, value in state.items() if is_remainder(key)}


def state_unpacked(packed: Mapping[str, Any], shape: torch.Size, transforms: Transforms = EAGER) -> dict[str, Any]:
    """Return what :func:`state_packed` was given, without what lies behind the weight."""
    state: dict[str, Any] = {}
    for key, value in packed.items():
        word = word_of(key)
        own = key.removesuffix(f":{word}") if word else key
        if is_remainder(key) or word == SCALE:
            continue
        if word in _BITS:
            state[own] = transforms.unpack(value, packed[f"{own}:{SCALE}"], _BITS[word], shape)
        elif word == "24bit":
            state[own] = transforms.join(packed[f"{own}:bf16"], value)
        elif word == "bf16":
            state.setdefault(own, value.to(torch.float32))
        else:
            state[key] = value
    return state


def wide_weight(low: Tensor, packed: Mapping[str, Any], transforms: Transforms = EAGER) -> Tensor:
    """Return a weight in fp32, with what lies behind it; a weight of another dtype as it is.

    Args:
        low: in bf16 or fp16, or in a dtype that nothing lies behind.
        packed: the state of its parameter.
        transforms: what unpacks.
    """
    if low.dtype not in packing.HALF:
        return low
    for word in _REMAINDERS:
        if f"{WEIGHT}:{word}" in packed:
            return transforms.join(low, packed[f"{WEIGHT}:{word}"])
    wide = low.to(torch.float32)
    lost = packed.get(f"{WEIGHT}:kahan")
    return wide if lost is None else wide.add_(lost)


def weight_packed(
    wide: Tensor, dtype: torch.dtype, storage: Storage, seed: int, transforms: Transforms = EAGER
) -> tuple[Tensor, dict[str, Any]]:
    """Return a weight in 16 bits and what lies behind it, as it stands in the state.

    Args:
        wide: fp32.
        dtype: bf16 or fp16.
        storage: how it is held.
        seed: of the noise that rounds, where it is stochastic.
        transforms: what packs.
    """
    way = storage.master_weights
    if way in _REMAINDERS:
        low, remainder = transforms.split(wide, dtype, _REMAINDERS[way])
        return low, {f"{WEIGHT}:{way}": remainder}
    if way == "stochastic":
        generator = torch.Generator(wide.device).manual_seed(seed)
        noise = torch.randint(0, 2**16, wide.shape, generator=generator, dtype=torch.int32, device=wide.device)
        return packing.round_stochastically(wide, dtype, noise), {}
    low = wide.to(dtype)
    return low, {f"{WEIGHT}:kahan": (wide - low).to(dtype)} if way == "kahan" else {}


def bytes_in_flight(packed: Mapping[str, Any], weight: Tensor, storage: Storage, elements: int) -> int:
    """Return the bytes that are there only while some of a parameter is stepped on: in fp32, what else takes less.

    Args:
        packed: the state of the parameter.
        weight: the parameter.
        storage: how it is held.
        elements: how many of its are stepped on.
    """
    wide = [weight] if storage.steps_wide and weight.dtype in packing.HALF else []  # and its gradient
    words = [word for word in map(word_of, (key for key in packed if not is_remainder(key))) if word != SCALE]
    unpacked = sum(word in (*_BITS, "bf16") for word in words)  # what has 24 bits is in bf16 and a remainder
    return 4 * elements * (2 * len(wide) + unpacked)


def widened(state: Mapping[str, Any], low: Tensor) -> dict[str, Any]:
    """Return state that was made beside weights in 16 bits as steps in fp32 make it.

    Args:
        state: of a parameter; nothing in it is packed.
        low: the parameter's weight.
    """
    return {key: value if key == ASIDE else _widened(value, low) for key, value in state.items()}


def _widened(value: Any, low: Tensor) -> Any:
    """Return what steps in 16 bits have made of a parameter's dtype as steps in fp32 make it."""
    is_as_narrow = isinstance(value, Tensor) and value.dtype == low.dtype and value.shape == low.shape
    return value.to(torch.float32) if is_as_narrow else value


def is_held_as(packed: Mapping[str, Any], storage: Storage, low: Tensor) -> bool:
    """Whether the state of a parameter is packed as it would be here.

    Args:
        packed: the state.
        storage: how it is held here.
        low: the parameter's weight.
    """
    behind = storage.master_weights if low.dtype in packing.HALF else "own"
    if behind != "own" and packed and f"{WEIGHT}:{behind}" not in packed:
        return False
    plain = storage.steps_wide and low.dtype in packing.HALF and not any(map(word_of, packed))
    for key, value in packed.items():
        word = word_of(key)
        if is_remainder(key):
            right = word == behind
        elif word:
            own = key.removesuffix(f":{word}")
            at_24_bits = own in storage.weights and storage.state_dtype in ("bf16", *_BITS)
            right = word in ("24bit", "bf16") if at_24_bits else word in (storage.state_dtype, SCALE)
        else:
            narrow = plain and key != ASIDE and _widened(value, low) is not value
            right = not narrow and not storage.way_of(key, value, low.shape)
        if not right:
            return False
    return True


def restored(packed: Mapping[str, Any], storage: Storage, low: Tensor, number: int) -> dict[str, Any]:
    """Return state that was packed in any way as it is held here; what lies behind a weight, as near as it can be.

    Args:
        packed: the state of a parameter, loaded.
        storage: how it is held here.
        low: the parameter's weight.
        number: its place, for a seed of its own.
    """
    shape = low.shape
    unpacked = state_unpacked(packed, shape)
    if storage.steps_wide and low.dtype in packing.HALF and not any(map(word_of, packed)):
        unpacked = widened(unpacked, low)
    state = state_packed(unpacked, storage, shape)
    way, key = storage.master_weights, f"{WEIGHT}:{storage.master_weights}"
    if low.dtype not in packing.HALF or way == "own":
        return state
    if key in packed:
        return {**state, key: packed[key]}
    if way == "stochastic":
        return {**state, key: first_seed(number)}
    wide = wide_weight(low, packed)
    if way == "kahan":
        return {**state, key: (wide - low).to(low.dtype)}
    return {**state, key: packing.behind(low, wide, _REMAINDERS[way])}
