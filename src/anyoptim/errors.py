"""Every refusal of anyoptim: what is wrong and the mend, in one or two sentences."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    candidates = list(dict.fromkeys(known))
    begun = sorted((name for name in candidates if len(wrong) >= 3 and name.startswith(wrong)), key=len)
    inside = [name for name in candidates if len(wrong) >= 3 and wrong in name]
    close = difflib.get_close_matches(wrong, candidates, n=count, cutoff=0.6) or inside
    close = list(dict.fromkeys([*begun, *close]))[:count]
    if not close:
        return ""
    return f" Did you mean {' or '.join(repr(name) for name in close)}?"
