"""Importing an optional package at the moment it is used, or saying how to install it."""

from __future__ import annotations

import importlib
import importlib.machinery
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any

from anyoptim.errors import MissingPackageError
from anyoptim.text import said


def load(module_name: str, *, needed_by: str, package: str, install: str = "", skips_init: bool = False) -> ModuleType:
    """Import a module, leaving the root logger as it was.

    Args:
        module_name: what to import.
        needed_by: what cannot go on without it, for the message.
        package: the distribution it belongs to.
        install: the command that installs it, where that is known.
        skips_init: leave out the ``__init__`` of the packages that the module is in, unless they are imported already.

    Raises:
        MissingPackageError: it does not import, for whatever reason.
    """
    try:
        with _root_logger_kept(), _bare_parents(module_name) if skips_init else nullcontext():
            return importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a package that does not fit this machine may raise anything when imported
        mend = f"Install it: {install}" if install else "Install it, or mend the name."
        raise MissingPackageError(
            f"{needed_by} needs the package {package}, which does not import here ({said(error)}). {mend}"
        ) from error


def attribute_of(module: ModuleType, name: str) -> Any:
    """Return what a module has under a name, ``None`` if nothing; a module that finds it late may raise anything."""
    try:
        return getattr(module, name, None)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return None


def need_transformers(needed_by: str) -> None:
    """Raise a ``MissingPackageError`` unless transformers and accelerate can be imported."""
    for package in ("transformers", "accelerate"):
        load(package, needed_by=needed_by, package=package, install="pip install 'anyoptim[transformers]'")


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Undo what an import does to the root logger: grokadamw calls ``logging.basicConfig``."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def _bare_parents(module_name: str) -> Iterator[None]:
    """Let the parents of a module be empty packages for as long as it is imported.

    ``timm/__init__`` imports every vision model and torchvision, none of which an optimizer needs.
    """
    parents = module_name.split(".")[:-1]
    names = [".".join(parents[: count + 1]) for count in range(len(parents))]
    missing = [name for name in names if name not in sys.modules]
    try:
        for name in missing:
            head, _, tail = name.rpartition(".")
            within = sys.modules[head].__path__ if head else None
            found = importlib.machinery.PathFinder.find_spec(name, within)
            if found is None or found.submodule_search_locations is None:
                raise ModuleNotFoundError(f"No module named {name!r}")
            bare = ModuleType(tail)
            bare.__path__ = list(found.submodule_search_locations)
            sys.modules[name] = bare
        yield
    finally:
        for name in missing:
            sys.modules.pop(name, None)
