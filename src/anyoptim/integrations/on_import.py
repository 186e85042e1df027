"""``enable()`` as soon as a process imports transformers' Trainer, and in the processes that it starts.

Launchers start the script in processes of their own, so a folder with a ``sitecustomize.py`` goes before the others
on PYTHONPATH, as tracing tools do it; it costs nothing where transformers is never imported.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

STARTUP = Path(__file__).parent / "startup"
"""A folder that Python, where it is on PYTHONPATH, takes its ``sitecustomize`` from."""

_ARGUMENTS, _TRAINER = "transformers.training_args", "transformers.trainer"


def enable_on_import() -> None:
    """Call ``enable()`` once transformers' TrainingArguments are imported; costs nothing in a process without them."""
    if _ARGUMENTS in sys.modules:
        _enable()
    else:
        sys.meta_path.insert(0, _Finder())


def enable_in_children() -> None:
    """Let every Python that this process starts do the same, as launchers start the script in processes of its own."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(STARTUP), *([before] if before else [])])


class _Finder(MetaPathFinder):
    """Finds the two modules as the other finders do, and acts after them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in (_ARGUMENTS, _TRAINER):
            return None
        sys.meta_path.remove(self)
        try:
            found = importlib.util.find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if found is not None and found.loader is not None:
            found.loader = _ThenEnable(found.loader, self)
        return found


class _ThenEnable(Loader):
    """Loads as another loader does, then enables, unless the Trainer is still on its way."""

    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        if module.__name__ == _TRAINER or _TRAINER not in sys.modules:
            sys.meta_path.remove(self._finder)  # before enable(), which imports the Trainer
            _enable()


def _enable() -> None:
    from anyoptim.integrations.transformers import enable

    enable()
