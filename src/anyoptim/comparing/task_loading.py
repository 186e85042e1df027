"""From the name of a task to the task: a built-in one, or the user's function."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sized
from pathlib import Path
from typing import cast

from torch import nn

from anyoptim.comparing.tasks import TASKS, Task
from anyoptim.errors import OptimError, did_you_mean
from anyoptim.text import said, shortened


def load_task(name: str) -> Task:
    """Find a task by its name, or make the user's.

    Args:
        name: one of ``TASKS``, or ``module:function``. The function takes nothing and returns a :class:`Task`, or
            ``(model, dataset, collator)`` or ``(model, dataset, collator, heldout)``; ``model`` is a module, or a
            function that makes one. It is called once; a module is copied for each run.

    Raises:
        OptimError: there is no such task, its function needs arguments or fails, or returns something else.
    """
    if name in TASKS:
        return TASKS[name]()
    module, colon, function = name.partition(":")
    if not colon:
        raise OptimError(
            f"No task is called {shortened(name)}: take {' or '.join(TASKS)}, or module:function."
            f"{did_you_mean(name, TASKS)}"
        )
    return _task_of(name, _called(name, _find(name, module, function)))


def _find(name: str, module: str, function: str) -> Callable[[], object]:
    """Return the user's function; its module may stand in the folder where the command is run."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise OptimError(
                f"The task {shortened(name)} cannot be loaded: {error}. Install what it imports."
            ) from error
        beside = [each.stem for each in Path.cwd().glob("*.py")]
        raise OptimError(
            f"The task {shortened(name)} cannot be loaded: there is no module {module!r} in {str(Path.cwd())!r} or"
            f" installed; write it as module:function, without .py.{did_you_mean(module.removesuffix('.py'), beside)}"
        ) from error
    except Exception as error:  # whatever the user's module does
        raise OptimError(f"The task {shortened(name)} cannot be loaded: {_said(error)}.") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    made = getattr(found, function, None)
    if not callable(made):
        functions = [each for each, value in vars(found).items() if inspect.isfunction(value)]
        raise OptimError(f"The module {module!r} has no function {function!r}.{did_you_mean(function, functions)}")
    needed = [
        each.name
        for each in inspect.signature(made).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if needed:
        raise OptimError(
            f"The function of the task {shortened(name)} needs {', '.join(needed)}, but is called with nothing; give"
            " its arguments defaults."
        )
    return cast("Callable[[], object]", made)


def _called(name: str, make: Callable[[], object]) -> object:
    try:
        return make()
    except OptimError:
        raise
    except Exception as error:  # whatever the user's function does
        raise OptimError(
            f"The function of the task {shortened(name)} fails: {_said(error)} (--debug shows where)."
        ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {said(error)}"


def _task_of(name: str, made: object) -> Task:
    if isinstance(made, Task):
        return made
    if isinstance(made, tuple) and len(made) in (3, 4):
        model, train, collator, heldout = (*made, None)[:4]
        copies = isinstance(model, nn.Module)
        if (copies or callable(model)) and isinstance(train, Sized) and (collator is None or callable(collator)):
            return Task(name, _copier(model) if copies else model, train, heldout, collator)  # type: ignore[arg-type]  # as checked
    raise OptimError(
        f"The task {shortened(name)} returned {_kind(made)}; it has to return (model, dataset, collator), a fourth"
        " one being the held-out data set, or a Task."
    )


def _kind(made: object) -> str:
    if isinstance(made, (tuple, list)):
        return f"a {type(made).__name__} of {', '.join(type(each).__name__ for each in made) or 'nothing'}"
    return "nothing" if made is None else type(made).__name__


def _copier(model: nn.Module) -> Callable[[], nn.Module]:
    import copy

    return lambda: copy.deepcopy(model)
