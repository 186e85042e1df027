"""Run by Python at its start in the processes below ``anyoptim run``."""

import contextlib
import importlib.machinery
import importlib.util
import os
import sys

with contextlib.suppress(ImportError):  # a Python that has no anyoptim
    from anyoptim.integrations.on_import import enable_on_import

    enable_on_import()

# the one that would have run without ours
_here = os.path.dirname(os.path.abspath(__file__))
_other = importlib.machinery.PathFinder.find_spec(
    "sitecustomize", [each for each in sys.path if os.path.abspath(each or os.curdir) != _here]
)
if _other is not None and _other.loader is not None:
    _other.loader.exec_module(importlib.util.module_from_spec(_other))
