"""One value, as text or as a Python object, to the type its annotation asks for."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin

from anyoptim.arguments.limits import DEEPEST
from anyoptim.arguments.splitting import split_outside_brackets
from anyoptim.errors import OptimArgsError, did_you_mean
from anyoptim.names.hyperparameters import REQUIRED, Hyperparameter, as_float
from anyoptim.text import shortened

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_NONE = {"none", "null"}
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf)", re.ASCII)
_ANYTHING = (None, object, Any)


def convert(value: object, annotation: object, label: str, depth: int = 0) -> object:
    """Turn text, or a Python value, into ``annotation``; ``None`` as annotation reads text by its look.

    Args:
        value: text, or an object that is checked and, between numbers and between sequences, converted.
        annotation: a type as it stands in a signature, or ``"torch.dtype"``.
        label: what error messages start with: the optimizer and the key.
        depth: how many brackets the value stands in.

    Raises:
        OptimArgsError: ``value`` is not of that type.
    """
    case = _Case(value, annotation, label, depth)
    if depth > DEEPEST:
        raise case.problem
    for recognises, read in _READERS:
        if recognises(annotation):
            return read(case)
    if isinstance(value, str):  # callables, tensors, dicts: no text form
        raise OptimArgsError(f"{label} cannot be given as text; pass it to get_optimizer from Python.")
    return value


def check(value: object, hyperparameter: Hyperparameter, spec_name: str, origin: str = "") -> object:
    """Return ``value`` in the hyperparameter's type, or raise an ``OptimArgsError`` that names it."""
    label = f"{spec_name}: {hyperparameter.name}{f' ({origin})' if origin else ''}"
    annotation = hyperparameter.type
    if annotation is None and hyperparameter.default not in (None, REQUIRED):
        annotation = common_type(hyperparameter.default)
    converted = convert(value, annotation, label)
    within = hyperparameter.within
    allowed = [number for _, number in _infinite(hyperparameter.default)]
    for given, number in _infinite(converted):
        if number not in (within or allowed):
            raise OptimArgsError(f"{label} must be a finite number, not {shortened(given)}.")
    outside = within.outside(converted) if within else None
    if outside is not None:
        raise OptimArgsError(f"{label} must be {within}, not {shortened(outside)}.")
    return converted


def _infinite(value: object) -> Iterator[tuple[object, float]]:
    """Yield what is infinite or no number in a value or a list, and as which float; 64 bits hold every whole number."""
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _infinite(each)
        return
    if isinstance(value, Integral) and abs(int(value)) >= 2**63:
        yield value, math.inf if int(value) > 0 else -math.inf
    elif isinstance(value, Real) or getattr(value, "shape", None) == ():
        try:
            number = as_float(value)  # type: ignore[arg-type]  # a tensor of one number is one
        except (TypeError, ValueError, RuntimeError):  # on the meta device, or of another kind
            return
        if not math.isfinite(number):
            yield value, number


def type_name(annotation: object) -> str:
    """Write a type as a person would: ``float or none``, ``(float, float)``, ``'channel' or 'tensor'``."""
    arguments = get_args(annotation)
    if _is_union(annotation):
        return " or ".join(type_name(each) for each in arguments)
    if get_origin(annotation) is Literal:
        return " or ".join(repr(each) for each in arguments)
    if get_origin(annotation) is tuple:
        return f"({', '.join('...' if each is ... else type_name(each) for each in arguments)})"
    if get_origin(annotation) is list:
        return f"a list of {type_name(arguments[0])}"
    if _is_dtype(annotation):
        return "a torch dtype"
    if get_origin(annotation) is Callable:
        return "functions (from Python only)"
    for types_, name in ((_ANYTHING, "any value"), ((type(None),), "none"), ((bool,), "true or false")):
        if annotation in types_:
            return name
    return getattr(annotation, "__name__", None) or str(annotation)


def common_type(default: object) -> object:
    """Return the annotation that a default value suggests, for a signature that has none."""
    if isinstance(default, tuple):
        return tuple[tuple(common_type(each) for each in default)]  # type: ignore[misc]  # built from the default
    if type(default) is int:  # `momentum=0` means a number, `rank=128` a whole one
        return int | float
    return type(default) if isinstance(default, (bool, float, str)) else None


@dataclass(frozen=True)
class _Case:
    """A value on its way to a type."""

    value: object
    annotation: object
    label: str
    depth: int

    @property
    def word(self) -> str | None:
        return self.value.strip().lower() if isinstance(self.value, str) else None

    @property
    def problem(self) -> OptimArgsError:
        return OptimArgsError(f"{self.label} must be {type_name(self.annotation)}, not {shortened(self.value)}.")

    def part(self, value: object, annotation: object) -> object:
        return convert(value, annotation, self.label, self.depth + 1)


def _read_by_look(case: _Case) -> object:
    if not isinstance(case.value, str):
        return case.value
    if case.word in _NONE:
        return None
    if case.word in (_TRUE | _FALSE) - {"0", "1"}:
        return case.word in _TRUE
    if case.value.lstrip()[:1] in ("(", "["):
        return case.part(case.value, tuple)
    for annotation, form in ((int, _INTEGER), (float, _NUMBER)):
        if form.fullmatch(case.value.strip()):
            return case.part(case.value, annotation)
    return _unquoted(case.value)


def _read_union(case: _Case) -> object:
    for member in sorted(get_args(case.annotation), key=_specificity):
        try:
            return case.part(case.value, member)
        except OptimArgsError:
            continue
    raise case.problem


def _read_none(case: _Case) -> object:
    if case.value is None or case.word in _NONE:
        return None
    raise case.problem


def _read_choice(case: _Case) -> object:
    choices = get_args(case.annotation)
    value = _unquoted(case.value) if isinstance(case.value, str) else case.value
    for choice in choices:
        is_choice = value == choice and isinstance(value, bool) == isinstance(choice, bool)
        if is_choice or (isinstance(value, str) and value == str(choice)):  # the text of a number
            return choice
    close = did_you_mean(value, [str(each) for each in choices], count=1) if isinstance(value, str) else ""
    raise OptimArgsError(f"{case.problem}{close}")


def _read_bool(case: _Case) -> object:
    if isinstance(case.value, bool):
        return case.value
    if case.word in _TRUE | _FALSE:
        return case.word in _TRUE
    raise case.problem


def _read_number(case: _Case) -> object:
    value, whole = case.value, case.annotation is int
    if isinstance(value, bool):
        raise case.problem
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 100 or not (_INTEGER if whole else _NUMBER).fullmatch(text):
            raise case.problem
        return int(text) if whole else float(text)
    if whole and isinstance(value, Integral):
        return int(value)
    if not whole and isinstance(value, Real):
        number = as_float(value)
        if number == number:  # noqa: PLR0124  # NaN, which is no setting, is unequal to itself
            return number
    raise case.problem


def _read_text(case: _Case) -> object:
    if isinstance(case.value, str):
        return _unquoted(case.value)
    raise case.problem


def _read_sequence(case: _Case) -> object:
    if isinstance(case.value, str):
        text = case.value.strip()
        if text[:1] + text[-1:] not in ("()", "[]"):
            raise case.problem
        parts: list[object] = list(split_outside_brackets(text[1:-1], case.label))
    elif isinstance(case.value, (tuple, list)):
        parts = list(case.value)
    else:
        raise case.problem
    kind, arguments = get_origin(case.annotation) or case.annotation, get_args(case.annotation)
    if kind is tuple and arguments and arguments[-1] is not ...:
        if len(parts) != len(arguments):
            raise case.problem
        return tuple(case.part(part, each) for part, each in zip(parts, arguments, strict=True))
    converted = [case.part(part, arguments[0] if arguments else None) for part in parts]
    return tuple(converted) if kind is tuple else converted


_SHORT_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64"}


def _read_dtype(case: _Case) -> object:
    import torch

    found: object = case.value
    if isinstance(found, str):
        name = _unquoted(found).removeprefix("torch.")
        found = getattr(torch, _SHORT_DTYPES.get(name, name), None)
    if not isinstance(found, torch.dtype):
        raise case.problem
    return found


def _is_union(annotation: object) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _is_sequence(annotation: object) -> bool:
    return (get_origin(annotation) or annotation) in (tuple, list)


def _is_dtype(annotation: object) -> bool:
    return annotation == "torch.dtype" or (
        isinstance(annotation, type) and annotation.__module__ == "torch" and annotation.__name__ == "dtype"
    )


_READERS: tuple[tuple[Callable[[object], bool], Callable[[_Case], object]], ...] = (
    (lambda annotation: annotation in _ANYTHING, _read_by_look),
    (_is_union, _read_union),
    (lambda annotation: annotation is type(None), _read_none),
    (lambda annotation: get_origin(annotation) is Literal, _read_choice),
    (lambda annotation: annotation is bool, _read_bool),
    (lambda annotation: annotation in (int, float), _read_number),
    (lambda annotation: annotation is str, _read_text),
    (_is_sequence, _read_sequence),
    (_is_dtype, _read_dtype),
)


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" else text


def _specificity(annotation: object) -> int:
    order = [type(None), bool, int, float]
    if annotation in order:
        return order.index(annotation)
    return len(order) + (annotation is str)
