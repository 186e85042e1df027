"""Specs of classes and factories that have no hand-written data: hyperparameters are read from the signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

from anyoptim.errors import OptimError
from anyoptim.names.hyperparameters import REQUIRED, Hyperparameter
from anyoptim.names.spec import Implementation, OptimizerSpec
from anyoptim.text import shortened

if TYPE_CHECKING:
    from torch.optim import Optimizer


def hyperparameters_of(constructor: Callable[..., object]) -> tuple[Hyperparameter, ...]:
    """Read hyperparameters from a constructor's signature, for optimizers that have no hand-written data.

    Args:
        constructor: a class or factory whose first argument is the parameters (or the model).
    """
    try:
        signature = inspect.signature(constructor, eval_str=True)
    except Exception:  # annotations that only a type checker can see
        signature = inspect.signature(constructor)
    return tuple(
        Hyperparameter(
            parameter.name,
            _evaluated(parameter.annotation),
            REQUIRED if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in list(signature.parameters.values())[1:]
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    )


def _evaluated(annotation: object) -> object:
    """Return an annotation, or ``None`` where there is none or it is still text."""
    return None if annotation is inspect.Parameter.empty or isinstance(annotation, str) else annotation


def spec_of(constructor: Callable[..., Optimizer], name: str, *, summary: str = "") -> OptimizerSpec:
    """Describe a class or factory under ``name``, taking hyperparameters from its signature.

    Raises:
        OptimError: it is neither.
    """
    can_be_called = inspect.isclass(constructor) or inspect.isroutine(constructor)
    if not can_be_called:
        raise OptimError(f"{name}: {shortened(constructor)} is no class and no function that makes optimizers.")
    package = (constructor.__module__ or "").partition(".")[0]
    doc = (inspect.getdoc(constructor) or "").partition("\n")[0]
    implementation = Implementation(
        name="upstream",
        target=constructor,
        hyperparameters=hyperparameters_of(constructor),
        package=package,
        licence="",
    )
    return OptimizerSpec(name=name, summary=summary or doc, implementations=(implementation,))
