"""Every refusal of anyoptim: what is wrong and the mend, in one or two sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


class OptimError(ValueError):
    """An optimizer cannot be built as asked. The base of every error anyoptim raises."""


class UnknownOptimizerError(OptimError):
    """The name is not registered."""


class OptimArgsError(OptimError):
    """A hyperparameter is unknown, given twice, of the wrong type or out of range."""


class TargetModulesError(OptimError):
    """``optim_target_modules`` is missing, malformed, or a pattern of it matches nothing."""


class UnsupportedError(OptimError):
    """The combination asked for would train wrongly."""


class CheckpointError(OptimError):
    """A checkpoint is damaged, or another optimizer wrote it."""


class MissingPackageError(OptimError, ImportError):
    """The package behind an optimizer is not installed."""


def did_you_mean(wrong: str, known: Iterable[str], *, count: int = 3) -> str:
    """Return " Did you mean 'x' or 'y'?" for the names of ``known`` closest to ``wrong``, or ""."""
    return or_these(closest(wrong, known)[:count])


def or_these(names: Sequence[str]) -> str:
    """Return " Did you mean 'x' or 'y'?" for names, or "" for none."""
    return f" Did you mean {' or '.join(map(repr, names))}?" if names else ""


def closest(wrong: str, known: Iterable[str]) -> list[str]:
    """Return the names of ``known`` that somebody who wrote ``wrong`` may have meant, the most likely first.

    One slip in three letters is forgiven. A name counts as a whole, by its beginning, by its last part, or, without
    a slip, by what stands in it.
    """
    from rapidfuzz.distance import OSA, JaroWinkler

    text = _compared(wrong)
    forgiven = max(1, len(text) // 3) if len(text) > 1 else 0
    ranked = []
    for name in dict.fromkeys(known):
        whole = _compared(name)
        ways = [(OSA.distance(text, whole), 0.0)]
        if len(text) > 2:
            beginnings = {whole[: len(text) + more] for more in (-1, 0, 1)}
            ways.append((min(OSA.distance(text, each) for each in beginnings), 1.0))
            ways.append((OSA.distance(text, re.split(r"[/._:]", whole)[-1]), 1.2))
            ways += [(0, 1.4)] if text in whole else []
        costs = [slips + further for slips, further in ways if slips <= forgiven]
        if costs:
            ranked.append((min(costs), -JaroWinkler.similarity(text, whole), name))
    return [name for _, _, name in sorted(ranked)]


def _compared(name: str) -> str:
    return name.lower().replace("-", "_")
