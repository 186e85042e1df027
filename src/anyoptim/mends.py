"""What other packages' optimizers need to keep our promises, applied to each one that is built.

A spec names these functions in ``Implementation.mends``. Each takes the optimizer and a function from one of its
parameters to that parameter's role.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from anyoptim.roles import EMBEDDINGS, Role

RoleOf = Callable[[Tensor], "Role | None"]


def embeddings_in_32_bits(optimizer: Any, role_of: RoleOf) -> None:
    """Keep the state of embeddings in 32 bits, as transformers and bitsandbytes advise.

    bitsandbytes keeps such exceptions in a manager that all optimizers of a process share, by the place of a parameter
    in its group: two optimizers would take over each other's. This one gets a manager of its own, and goes by the
    parameter.
    """
    manager = object.__new__(type(optimizer.mng))  # its constructor points to the shared one
    manager.initialize()
    optimizer.mng = manager
    get_config = optimizer.get_config

    def get_config_of(gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
        config: dict[str, Any] = get_config(gindex, pindex, group)
        if role_of(group["params"][pindex]) in EMBEDDINGS:
            config["optim_bits"] = 32
        return config

    optimizer.get_config = get_config_of


def no_pickle_in_state(optimizer: Optimizer, role_of: RoleOf) -> None:
    """Keep heavyball's pickled schedule out of state dicts, and never unpickle one.

    ``torch.load(weights_only=True)`` lets bytes pass, and heavyball unpickles them. The constructor makes the schedule
    anyway.
    """

    def drop(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        held = state_dict.get("heavyball")
        if isinstance(held, dict):
            state_dict["heavyball"] = {key: value for key, value in held.items() if key != "precond_schedule"}
        return state_dict

    optimizer.register_state_dict_post_hook(drop)
    optimizer.register_load_state_dict_pre_hook(drop, prepend=True)


def no_compiling_on_a_cpu(optimizer: Optimizer, role_of: RoleOf) -> None:
    """Let heavyball step without torch.compile where parameters are on a CPU: compiling takes up to a minute there."""
    if any(parameter.device.type != "cpu" for group in optimizer.param_groups for parameter in group["params"]):
        return
    settings: Any = importlib.import_module("heavyball.utils")
    modes: list[object] = []

    def before(*_: object) -> None:
        modes.append(settings.compile_mode)
        settings.compile_mode = None

    def after(*_: object) -> None:
        settings.compile_mode = modes.pop()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def no_triton_on_a_cpu(optimizer: Optimizer, role_of: RoleOf) -> None:
    """Keep optimi off Triton kernels for parameters on a CPU, where it picks them once Triton is installed."""
    for group in optimizer.param_groups:
        if group["triton"] is None and all(parameter.device.type == "cpu" for parameter in group["params"]):
            group["triton"] = False


def rate_in_groups(optimizer: Optimizer, role_of: RoleOf) -> None:
    """Give the groups a learning rate, which schedulers and logs read, where the step size is not one."""
    for group in optimizer.param_groups:
        group.setdefault("lr", 0.0)


def torch_hooks(optimizer: Optimizer, role_of: RoleOf) -> None:
    """Complete an optimizer that did not call torch's constructor."""
    Optimizer.__setstate__(optimizer, {})


def offloaded_to_cpu(optimizer: Optimizer, **keywords: object) -> Optimizer:
    """Return torchao's CPU offload of an optimizer that is just built: it builds one for each parameter itself."""
    offload: Any = importlib.import_module("torchao.optim").CPUOffloadOptimizer
    shared = {
        key: value for key, value in optimizer.defaults.items() if key in inspect.signature(type(optimizer)).parameters
    }
    built: Optimizer = offload(optimizer.param_groups, type(optimizer), **keywords, **shared)
    return built
