"""Importing an optional package at the moment it is used, or saying how to install it."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from anyoptim.errors import MissingPackageError


def load(module_name: str, *, needed_by: str, package: str, install: str = "") -> ModuleType:
    """Import a module, leaving the root logger as it was.

    Args:
        module_name: what to import.
        needed_by: what cannot go on without it, for the message.
        package: the distribution it belongs to.
        install: the command that installs it, where that is known.

    Raises:
        MissingPackageError: it does not import, for whatever reason.
    """
    try:
        with _root_logger_kept():
            return importlib.import_module(module_name)
    except Exception as error:  # a package that does not fit this machine may raise anything when imported
        mend = f"Install it: {install}" if install else "Install it, or mend the name."
        raise MissingPackageError(
            f"{needed_by} needs the package {package}, which does not import here ({error}). {mend}"
        ) from error


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
