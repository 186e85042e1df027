"""Names to specs: registering, aliases, wildcards, class paths, plug-ins, and the closest valid name."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pkgutil
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from fnmatch import fnmatchcase
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar, overload

from anyoptim.errors import OptimError, UnknownOptimizerError, did_you_mean
from anyoptim.names import composing, packages
from anyoptim.names.hyperparameters import Interval
from anyoptim.names.signatures import spec_of
from anyoptim.names.spec import Implementation, OptimizerSpec
from anyoptim.names.unmade import Unmade
from anyoptim.text import shortened

ENTRY_POINT_GROUP = "anyoptim.optimizers"
CATALOGUE = "anyoptim.catalog"
"""Found by its name, as plug-ins are: specs are made of what stands in this room."""
CLASS_PATHS = "ANYOPTIM_CLASS_PATHS"
"""The environment variable that switches class paths off."""

if TYPE_CHECKING:
    from torch.optim import Optimizer

_Constructor = TypeVar("_Constructor", bound="Callable[..., Optimizer]")

_DEEPEST = 50
"""No name has more wrappers, as each may be there once."""
_WRAPPED = re.compile(r"(?P<wrapper>[^()+]+)\((?P<inner>.+)\)", re.DOTALL)

_specs: dict[str, OptimizerSpec | Unmade] = {}
_aliases: dict[str, str] = {}
_plugins: dict[str, EntryPoint] = {}
_catalogue_loaded = False
_lock = threading.RLock()
"""Held while names are added; never while a stranger's module is imported, which may register names itself."""

on_register: list[Callable[[tuple[str, ...]], None]] = []
"""Called with name and aliases of each spec registered from now on; the transformers integration listens here."""


def normalise(name: str) -> str:
    """Return the registered spelling: lower snake case; a class path ``module:Class`` stays as it is.

    Args:
        name: text, or a member of an enum of names, such as ``OptimizerNames``, which stands for its value.

    Raises:
        UnknownOptimizerError: it is nested more deeply than a name can be.
    """
    name = _text(name).strip()
    if name.count("(") > _DEEPEST:
        raise UnknownOptimizerError(
            f"{shortened(name)} is nested {name.count('(')} deep; each wrapper goes around an optimizer once."
        )
    wrapped = _WRAPPED.fullmatch(name)
    if wrapped:
        return f"{normalise(wrapped['wrapper'])}({normalise(wrapped['inner'])})"
    if "+" in name:
        return "+".join(normalise(part) for part in name.split("+"))
    return name if ":" in name else re.sub(r"[-\s]+", "_", name.lower())


@overload
def register(entry: OptimizerSpec, *, replace: bool = False) -> OptimizerSpec: ...


@overload
def register(entry: str, *, replace: bool = False, summary: str = "") -> Callable[[_Constructor], _Constructor]: ...


def register(
    entry: OptimizerSpec | str, *, replace: bool = False, summary: str = ""
) -> OptimizerSpec | Callable[[_Constructor], _Constructor]:
    """Add a name: ``register(spec)``, or ``@register("name")`` on an optimizer class or factory.

    Args:
        entry: a spec; or, as a decorator, the name, with hyperparameters read from the signature.
        replace: take over a name that exists.
        summary: with a decorator, one line for ``anyoptim list``.

    Raises:
        OptimError: the name or an alias exists and ``replace`` is false.
    """
    _load_catalogue()
    if isinstance(entry, OptimizerSpec):
        _add(entry, replace=replace)
        return entry
    name = normalise(entry)

    def decorate(constructor: _Constructor) -> _Constructor:
        _add(spec_of(constructor, name, summary=summary), replace=replace)
        return constructor

    return decorate


def unregister(name: str) -> None:
    """Remove a name that :func:`register` added, with its aliases; an unknown name is no error."""
    spec = _specs.pop(normalise(name), None)
    for alias in spec.aliases if spec else ():
        _aliases.pop(alias, None)


def optimizer_info(name: str) -> OptimizerSpec:
    """Return what a name means.

    Args:
        name: a registered name or alias in any case, with ``-`` or ``_``; a class path ``module:Class``; a pair
            ``matrix_optimizer+fallback`` of such names; or ``wrapper(name)``, also nested.

    Raises:
        UnknownOptimizerError: no such name; says which come close.
        OptimError: two names that make no pair, or that cannot be wrapper and wrapped.
    """
    _load_catalogue()
    key = normalise(name)
    key = _aliases.get(key, key)
    if key in _specs:
        return _made(key)
    if key in _plugins:
        spec = _load_plugin(key)
        if spec is not None:
            return spec
    wrapped = _WRAPPED.fullmatch(key)
    if wrapped:
        return composing.wrapped(optimizer_info(wrapped["inner"]), optimizer_info(wrapped["wrapper"]))
    if "+" in key:
        return _pair(key)
    if ":" in key:
        return _class_path(key)
    raise unknown(name, known_names())


def _text(name: object) -> str:
    return str(name.value if isinstance(name, Enum) else name)


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


def is_known(name: str) -> bool:
    """Whether :func:`optimizer_info` knows a name."""
    try:
        optimizer_info(name)
    except UnknownOptimizerError:
        return False
    return True


def unknown(name: str, known: Iterable[str]) -> UnknownOptimizerError:
    """Return the error for a name that nobody knows, with the closest of ``known``."""
    name = _text(name)
    module, dot, attribute = name.rpartition(".")
    if dot and module and attribute.isidentifier():
        close = f" Write a class path as {module}:{attribute}."
    else:
        close = did_you_mean(normalise(name), known)
    return UnknownOptimizerError(f"No optimizer is called {shortened(name)}.{close} `anyoptim list` shows every name.")


def list_optimizers(
    pattern: str = "*",
    *,
    package: str | None = None,
    installed: bool | None = None,
    commercial: bool | None = None,
) -> list[str]:
    """Return the registered names, sorted.

    Args:
        pattern: shell wildcards, matched against names and aliases.
        package: only those backed by this distribution (as pip names it).
        installed: only those whose package can (``True``) or cannot (``False``) be found here.
        commercial: only those whose licence allows (``True``) or forbids (``False``) commercial use.
    """
    _load_catalogue()
    wanted = normalise(pattern)
    names = []
    with _lock:
        every = sorted({*_specs, *_plugins})
    for name in every:
        spec = listed(name)
        if not any(fnmatchcase(each, wanted) for each in (name, *spec.aliases)):
            continue
        if package is not None and normalise(spec.package) != normalise(package):
            continue
        if installed is not None and spec.installed is not installed:
            continue
        if commercial is not None and spec.default.commercial is not commercial:
            continue
        names.append(name)
    return names


def listed(name: str) -> OptimizerSpec:
    """Return what a list says of a name: of a plug-in, what its package's metadata say, so nothing is imported."""
    if name in _specs:
        return _made(name)
    entry_point = _plugins[name]
    metadata = entry_point.dist.metadata if entry_point.dist else None
    about = {
        key: str(metadata[key]) for key in ("Name", "Summary", "License-Expression") if metadata and key in metadata
    }
    implementation = Implementation(
        name="upstream",
        target=entry_point.value,
        hyperparameters=(),
        package=about.get("Name", entry_point.value.partition(".")[0]),
        licence=about.get("License-Expression", ""),
    )
    return OptimizerSpec(name=name, summary=about.get("Summary", "a plug-in"), implementations=(implementation,))


def ranges_of(class_path: str) -> Mapping[str, Interval]:
    """Return the ranges of what a class takes, by its own names, where the catalogue describes it by hand."""
    _load_catalogue()
    for spec in _specs.values():
        for each in spec.implementations if isinstance(spec, OptimizerSpec) else ():
            if each.target == class_path:
                return {one.keyword: one.within for one in each.hyperparameters if one.within and not one.member}
    return {}


def known_names() -> list[str]:
    """Return every name and alias, sorted."""
    _load_catalogue()
    with _lock:
        return sorted({*_specs, *_aliases, *_plugins})


def _made(name: str) -> OptimizerSpec:
    """Return the spec of a name, which is made now if nobody asked for it before."""
    found = _specs[name]
    if isinstance(found, Unmade):
        _specs[name] = found = found.make()
    return found


def _add(spec: OptimizerSpec | Unmade, *, replace: bool) -> None:
    names = (spec.name, *spec.aliases)
    with _lock:
        for name in names:
            if name != normalise(name):
                raise OptimError(f"{name!r} is not lower snake case; register it as {normalise(name)!r}.")
            if not replace and (name in _specs or name in _aliases):
                raise OptimError(f"The optimizer name {name!r} exists already; pass replace=True to take it over.")
        if replace:
            for name in names:
                unregister(name)
                _aliases.pop(name, None)
        _specs[spec.name] = spec
        _aliases.update(dict.fromkeys(spec.aliases, spec.name))
    for listener in on_register:
        listener(names)


def _load_catalogue() -> None:
    """Add what the catalogue and the plug-ins offer; another thread waits until all of it is there."""
    global _catalogue_loaded
    if _catalogue_loaded:
        return
    with _lock:
        if _catalogue_loaded:  # by the thread that held the lock
            return
        modules = (
            importlib.import_module(f"{CATALOGUE}.{found.name}")
            for found in pkgutil.iter_modules(importlib.import_module(CATALOGUE).__path__)
            if not found.name.startswith("_")
        )
        for module in modules:
            specs: Iterable[OptimizerSpec | Unmade] = module.SPECS
            for spec in specs:
                _add(spec, replace=False)
        for entry_point in entry_points(group=ENTRY_POINT_GROUP):
            name = normalise(entry_point.name)
            if name in _specs or name in _aliases:
                warnings.warn(
                    f"The plug-in {entry_point.value} offers the optimizer {name!r}, which exists; it is left out.",
                    stacklevel=2,
                )
                continue
            _plugins[name] = entry_point
        _catalogue_loaded = True


def _load_plugin(name: str) -> OptimizerSpec | None:
    """Turn an entry point into a spec; a broken plug-in is one warning and its name is gone."""
    announced = listed(name).default
    entry_point = _plugins[name]
    try:
        loaded = entry_point.load()
        if isinstance(loaded, OptimizerSpec):
            spec = loaded
        else:
            spec = spec_of(loaded, name)
            own = dataclasses.replace(spec.default, package=announced.package, licence=announced.licence)
            spec = dataclasses.replace(spec, implementations=(own,))
        with _lock:
            if name not in _plugins:  # another thread was first
                return optimizer_info(name)
            del _plugins[name]
            _add(spec, replace=False)
    except Exception as error:  # a stranger's module may raise anything; it must not break ours
        _plugins.pop(name, None)
        warnings.warn(f"The plug-in {entry_point.value} for {name!r} does not load: {error}", stacklevel=2)
        return None
    return spec


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
    constructor: Any = getattr(module, attribute, None)
    if not _makes_optimizers(constructor):
        optimizers = [name for name in dir(module) if _makes_optimizers(getattr(module, name, None))]
        raise UnknownOptimizerError(
            f"The module {module_name!r} has no optimizer {attribute!r}: a class path names a subclass of"
            f" torch.optim.Optimizer, or what anyoptim.register was given.{did_you_mean(attribute, optimizers)}"
        )
    return spec_of(constructor, path)


def _makes_optimizers(candidate: Any) -> bool:
    """Whether something is known to make optimizers, without calling it."""
    from torch.optim import Optimizer

    if isinstance(candidate, type):
        return issubclass(candidate, Optimizer)
    with _lock:
        made = [spec for spec in _specs.values() if isinstance(spec, OptimizerSpec)]
    return any(each.target is candidate for spec in made for each in spec.implementations)
