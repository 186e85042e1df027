"""anyoptim: any optimizer through one ``optim=`` string, and every promise checked.

The public names are imported when first used, so ``import anyoptim`` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from anyoptim.arguments.parsing import parse_optim_args as parse_optim_args
    from anyoptim.building.wide_weights import fp32_weights as fp32_weights
    from anyoptim.comparing.translating import translate as translate
    from anyoptim.comparing.translation import Translation as Translation
    from anyoptim.errors import CheckpointError as CheckpointError
    from anyoptim.errors import MissingPackageError as MissingPackageError
    from anyoptim.errors import OptimArgsError as OptimArgsError
    from anyoptim.errors import OptimError as OptimError
    from anyoptim.errors import TargetModulesError as TargetModulesError
    from anyoptim.errors import UnknownOptimizerError as UnknownOptimizerError
    from anyoptim.errors import UnsupportedError as UnsupportedError
    from anyoptim.integrations.transformers import disable as disable
    from anyoptim.integrations.transformers import enable as enable
    from anyoptim.names.hyperparameters import FUSED_BACKWARD as FUSED_BACKWARD
    from anyoptim.names.hyperparameters import OWNED as OWNED
    from anyoptim.names.hyperparameters import STORAGE as STORAGE
    from anyoptim.names.hyperparameters import Hyperparameter as Hyperparameter
    from anyoptim.names.hyperparameters import Interval as Interval
    from anyoptim.names.lookup import optimizer_info as optimizer_info
    from anyoptim.names.registry import list_optimizers as list_optimizers
    from anyoptim.names.registry import register as register
    from anyoptim.names.spec import Implementation as Implementation
    from anyoptim.names.spec import OptimizerSpec as OptimizerSpec
    from anyoptim.names.spec import Traits as Traits
    from anyoptim.planning.plan import Plan as Plan
    from anyoptim.planning.plan import get_optimizer as get_optimizer
    from anyoptim.planning.plan import plan as plan

_HOME = {
    "parse_optim_args": "arguments.parsing",
    "CheckpointError": "errors",
    "MissingPackageError": "errors",
    "OptimArgsError": "errors",
    "OptimError": "errors",
    "TargetModulesError": "errors",
    "UnknownOptimizerError": "errors",
    "UnsupportedError": "errors",
    "disable": "integrations.transformers",
    "enable": "integrations.transformers",
    "fp32_weights": "building.wide_weights",
    "Plan": "planning.plan",
    "get_optimizer": "planning.plan",
    "plan": "planning.plan",
    "list_optimizers": "names.registry",
    "optimizer_info": "names.lookup",
    "register": "names.registry",
    "FUSED_BACKWARD": "names.hyperparameters",
    "OWNED": "names.hyperparameters",
    "STORAGE": "names.hyperparameters",
    "Hyperparameter": "names.hyperparameters",
    "Interval": "names.hyperparameters",
    "Implementation": "names.spec",
    "OptimizerSpec": "names.spec",
    "Traits": "names.spec",
    "Translation": "comparing.translation",
    "translate": "comparing.translating",
}

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604  # every name of _HOME is a string


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'anyoptim' has no attribute {name!r}")
    if _HOME[name] == "planning.plan":  # what builds; accelerate's loops need no enable()
        importlib.import_module("anyoptim.integrations.accelerate")
    return getattr(importlib.import_module(f"anyoptim.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
