"""The names there are: registering them, their aliases, what the catalogue and plug-ins offer, and listing them."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, TypeVar, overload

from anyoptim.errors import OptimError
from anyoptim.names.hyperparameters import Interval
from anyoptim.names.signatures import spec_of
from anyoptim.names.spec import Implementation, OptimizerSpec
from anyoptim.names.spelling import normalise
from anyoptim.names.unmade import Unmade
from anyoptim.text import said, shortened

ENTRY_POINT_GROUP = "anyoptim.optimizers"
CATALOGUE = "anyoptim.catalog"
"""Found by its name, as plug-ins are: specs are made of what stands in this room."""

if TYPE_CHECKING:
    from torch.optim import Optimizer

_Constructor = TypeVar("_Constructor", bound="Callable[..., Optimizer]")

_specs: dict[str, OptimizerSpec | Unmade] = {}
_aliases: dict[str, str] = {}
_plugins: dict[str, EntryPoint] = {}
_catalogue_loaded = False
_lock = threading.RLock()
"""Held while names are added; never while a stranger's module is imported, which may register names itself."""

on_register: list[Callable[[tuple[str, ...]], None]] = []
"""Called with name and aliases of each spec registered from now on; the transformers integration listens here."""


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


def registered(key: str) -> OptimizerSpec | None:
    """Return the spec of a registered name or alias, spelt as :func:`normalise` does; importing its plug-in, if any."""
    _load_catalogue()
    key = _aliases.get(key, key)
    if key in _specs:
        return _made(key)
    return _load_plugin(key) if key in _plugins else None


def list_optimizers(
    pattern: str = "*",
    *,
    package: str | None = None,
    installed: bool | None = None,
    commercial: bool | None = None,
    licence: str = "*",
) -> list[str]:
    """Return the registered names, sorted.

    Args:
        pattern: shell wildcards, matched against names and aliases.
        package: only those backed by this distribution (as pip names it).
        installed: only those whose package can (``True``) or cannot (``False``) be found here.
        commercial: only those whose licence allows (``True``) or forbids (``False``) commercial use.
        licence: only those whose default implementation is under it, as SPDX writes it; shell wildcards.
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
        if not fnmatchcase(normalise(spec.licence), normalise(licence)):
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


def is_target(candidate: object) -> bool:
    """Whether a registered name builds with this very class or factory."""
    with _lock:
        made = [spec for spec in _specs.values() if isinstance(spec, OptimizerSpec)]
    return any(each.target is candidate for spec in made for each in spec.implementations)


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
            _announce(entry_point)
        _catalogue_loaded = True


def _announce(entry_point: EntryPoint) -> None:
    """Add the name of a plug-in, unless it is none or is there."""
    try:
        name = normalise(entry_point.name)
    except OptimError as error:
        warnings.warn(f"The plug-in {shortened(entry_point.value)} is left out: {error}", stacklevel=3)
        return
    if name in _specs or name in _aliases:
        warnings.warn(
            f"The plug-in {entry_point.value} offers the optimizer {name!r}, which exists; it is left out.",
            stacklevel=3,
        )
        return
    _plugins[name] = entry_point


def _load_plugin(name: str) -> OptimizerSpec | None:
    """Turn an entry point into a spec; a broken plug-in is one warning and its name is gone."""
    announced = listed(name).default
    entry_point = _plugins[name]
    try:
        loaded = entry_point.load()
        if isinstance(loaded, OptimizerSpec):
            spec = loaded
            if spec.name != name:
                raise OptimError(f"its spec is called {shortened(spec.name)}")
            if not all(isinstance(each, Implementation) for each in (*spec.implementations, spec.default)):
                raise OptimError("its spec has something else than implementations")
        else:
            spec = spec_of(loaded, name)
            own = dataclasses.replace(spec.default, package=announced.package, licence=announced.licence)
            spec = dataclasses.replace(spec, implementations=(own,))
        with _lock:
            if name not in _plugins:  # another thread was first
                return registered(name)
            del _plugins[name]
            _add(spec, replace=False)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a stranger's module may raise anything; it must not break ours
        _plugins.pop(name, None)
        warnings.warn(f"The plug-in {entry_point.value} for {name!r} does not load: {said(error)}", stacklevel=2)
        return None
    return spec
