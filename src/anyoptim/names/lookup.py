"""Looking up what a name means: a registered one, a pair, one inside of a wrapper, or a class path."""

from __future__ import annotations

import os
from typing import Any

from anyoptim.errors import UnknownOptimizerError, did_you_mean
from anyoptim.names import composing, packages, registry
from anyoptim.names.signatures import spec_of
from anyoptim.names.spec import OptimizerSpec
from anyoptim.names.spelling import WRAPPED, normalise, unknown
from anyoptim.text import shortened

CLASS_PATHS = "ANYOPTIM_CLASS_PATHS"
"""The environment variable that switches class paths off."""


def optimizer_info(name: str) -> OptimizerSpec:
    """Return what a name means.

    Args:
        name: a registered name or alias in any case, with ``-`` or ``_``; a class path ``module:Class``; a pair
            ``matrix_optimizer+fallback`` of such names; or ``wrapper(name)``, also nested.

    Raises:
        UnknownOptimizerError: no such name; says which come close.
        OptimError: two names that make no pair, or that cannot be wrapper and wrapped.
    """
    key = normalise(name)
    spec = registry.registered(key)
    if spec is not None:
        return spec
    wrapped = WRAPPED.fullmatch(key)
    if wrapped:
        return composing.wrapped(optimizer_info(wrapped["inner"]), optimizer_info(wrapped["wrapper"]))
    if "+" in key:
        return _pair(key)
    if ":" in key:
        return _class_path(key)
    raise unknown(name, registry.known_names())


def is_known(name: str) -> bool:
    """Whether :func:`optimizer_info` knows a name."""
    try:
        optimizer_info(name)
    except UnknownOptimizerError:
        return False
    return True


def _pair(name: str) -> OptimizerSpec:
    """Return the hybrid of two names."""
    matrix, _, rest = name.partition("+")
    if not matrix or not rest or "+" in rest:
        raise UnknownOptimizerError(
            f"{shortened(name)} is no pair; write it as matrix_optimizer+fallback, such as 'muon+lion'."
        )
    first, second = optimizer_info(matrix), optimizer_info(rest)
    return composing.pair(
        first,
        second,
        f"{first.name}+{second.name}",
        summary=f"{first.name} on the target modules, {second.name} on all other parameters",
        aliases=(),
    )


def _class_path(path: str) -> OptimizerSpec:
    module_name, _, attribute = path.partition(":")
    if os.environ.get(CLASS_PATHS, "").lower() in ("off", "0", "false"):
        raise UnknownOptimizerError(
            f"{shortened(path)} is a class path, and {CLASS_PATHS}={os.environ[CLASS_PATHS]} allows registered names"
            " only."
        )
    if not attribute or not all(part.isidentifier() for part in module_name.split(".")):
        raise UnknownOptimizerError(f"{shortened(path)} is not a class path; write it as package.module:Class.")
    module = packages.load(module_name, needed_by=path, package=module_name.partition(".")[0])
    constructor = packages.attribute_of(module, attribute)
    if not _makes_optimizers(constructor):
        optimizers = [name for name, each in vars(module).items() if _makes_optimizers(each)]
        raise UnknownOptimizerError(
            f"The module {shortened(module_name)} has no optimizer {shortened(attribute)}: a class path names a"
            " subclass of torch.optim.Optimizer, or what anyoptim.register was given."
            f"{did_you_mean(attribute, optimizers)}"
        )
    return spec_of(constructor, path)


def _makes_optimizers(candidate: Any) -> bool:
    """Whether something is known to make optimizers, without calling it."""
    from torch.optim import Optimizer

    if isinstance(candidate, type):
        return issubclass(candidate, Optimizer)
    return registry.is_target(candidate)
