"""anyoptim: any optimizer through one ``optim=`` string, and every promise checked.

The public names are imported when first used, so ``import anyoptim`` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from anyoptim.arguments import parse_optim_args as parse_optim_args
    from anyoptim.errors import CheckpointError as CheckpointError
    from anyoptim.errors import MissingPackageError as MissingPackageError
    from anyoptim.errors import OptimArgsError as OptimArgsError
    from anyoptim.errors import OptimError as OptimError
    from anyoptim.errors import TargetModulesError as TargetModulesError
    from anyoptim.errors import UnknownOptimizerError as UnknownOptimizerError
    from anyoptim.errors import UnsupportedError as UnsupportedError
    from anyoptim.integrations.transformers import disable as disable
    from anyoptim.integrations.transformers import enable as enable
    from anyoptim.planning import Plan as Plan
    from anyoptim.planning import get_optimizer as get_optimizer
    from anyoptim.planning import plan as plan
    from anyoptim.registry import list_optimizers as list_optimizers
    from anyoptim.registry import optimizer_info as optimizer_info
    from anyoptim.registry import register as register
    from anyoptim.spec import Hyperparameter as Hyperparameter
    from anyoptim.spec import Implementation as Implementation
    from anyoptim.spec import OptimizerSpec as OptimizerSpec
    from anyoptim.spec import Traits as Traits

_HOME = {
    "parse_optim_args": "arguments",
    "CheckpointError": "errors",
    "MissingPackageError": "errors",
    "OptimArgsError": "errors",
    "OptimError": "errors",
    "TargetModulesError": "errors",
    "UnknownOptimizerError": "errors",
    "UnsupportedError": "errors",
    "disable": "integrations.transformers",
    "enable": "integrations.transformers",
    "Plan": "planning",
    "get_optimizer": "planning",
    "plan": "planning",
    "list_optimizers": "registry",
    "optimizer_info": "registry",
    "register": "registry",
    "Hyperparameter": "spec",
    "Implementation": "spec",
    "OptimizerSpec": "spec",
    "Traits": "spec",
}

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604  # every name of _HOME is a string


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'anyoptim' has no attribute {name!r}")
    return getattr(importlib.import_module(f"anyoptim.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
