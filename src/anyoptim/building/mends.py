"""What other packages' optimizers need to keep our promises, applied to each one that is built.

A spec names these functions in ``Implementation.mends``. Each takes the optimizer and a function from one of its
parameters to that parameter's place in the model.
"""

from __future__ import annotations

import importlib
import inspect
from collections import ChainMap, OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from anyoptim.building.plain_state import keep_plain
from anyoptim.building.quantized_shards import step_on_parts
from anyoptim.engines.loading import after_loading, before_loading, only_makes_state
from anyoptim.engines.on_shards import stood_for
from anyoptim.names import packages
from anyoptim.names.role import EMBEDDINGS
from anyoptim.routing.places import Place

PlaceOf = Callable[[Tensor], "Place | None"]


def embeddings_in_32_bits(optimizer: Any, place_of: PlaceOf) -> None:
    """Keep the state of embeddings in 32 bits, as transformers and bitsandbytes advise.

    bitsandbytes keeps such exceptions in a manager that all optimizers of a process share, by the place of a parameter
    in its group: two optimizers would take over each other's. This one gets a manager of its own, which knows the
    user's exceptions too, and goes by the parameter.
    """
    shared = optimizer.mng
    manager = object.__new__(type(shared))  # its constructor points to the shared one
    manager.initialize()
    manager.pid2config = ChainMap({}, shared.pid2config)
    exceptions: dict[Tensor, dict[str, Any]] = {}
    manager.module_weight_config_triple = _Modules()
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    for module, name, config in shared.module_weight_config_triple:
        if getattr(module, name) in held:
            exceptions[getattr(module, name)] = config
    for parameter in held:
        place = place_of(parameter)
        if place is not None and place.role in EMBEDDINGS:
            exceptions[parameter] = {"optim_bits": 32}
            # where transformers leaves them for anybody to read
            manager.register_module_override(place.module, place.name.rpartition(".")[2], exceptions[parameter])
    optimizer.mng = manager
    optimizer.get_config = _ConfigOf(optimizer, exceptions)


class _Modules(list[Any]):
    """Modules with exceptions, which belong to a model: a copy of the optimizer goes without them."""

    def __reduce__(self) -> Any:
        return _Modules, ()


class _ConfigOf:
    """bitsandbytes' ``get_config``, by the parameter instead of its place.

    Args:
        optimizer: whose.
        exceptions: what differs for single parameters.
    """

    def __init__(self, optimizer: Any, exceptions: Mapping[Tensor, Mapping[str, Any]]) -> None:
        self.optimizer = optimizer
        self.exceptions = exceptions

    def __call__(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
        parameter, manager = stood_for(group["params"][pindex]), self.optimizer.mng
        # the group may be another optimizer's copy; no exception is kept under the place -1
        alone = SimpleNamespace(args=self.optimizer.args, mng=manager, param_groups=[group])
        config: dict[str, Any] = type(self.optimizer).get_config(alone, -1, pindex, group)
        return {**config, **manager.pid2config.get(id(parameter), {}), **self.exceptions.get(parameter, {})}


def hooks_around_loading(optimizer: Any, place_of: PlaceOf) -> None:
    """Let what hooks make of a state dict be loaded, by a class whose own ``load_state_dict`` looks at the argument."""
    optimizer.load_state_dict = _LoadingWithHooks(optimizer)


class _LoadingWithHooks:
    """The ``load_state_dict`` of a class, between the hooks that torch lets anybody register.

    Args:
        optimizer: whose.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def __call__(self, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        optimizer = self.optimizer
        state_dict = before_loading(optimizer, state_dict)
        names = ("_optimizer_load_state_dict_pre_hooks", "_optimizer_load_state_dict_post_hooks")
        hooks = {name: getattr(optimizer, name) for name in names}
        vars(optimizer).update({name: OrderedDict() for name in names})  # the class may run them once more
        try:
            type(optimizer).load_state_dict(optimizer, state_dict, *args, **kwargs)
        finally:
            vars(optimizer).update(hooks)
        after_loading(optimizer)


def no_pickle_in_state(optimizer: Optimizer, place_of: PlaceOf) -> None:
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


def no_compiling_on_a_cpu(optimizer: Optimizer, place_of: PlaceOf) -> None:
    """Let heavyball step without torch.compile where parameters are on a CPU: compiling takes up to a minute there."""
    if any(parameter.device.type != "cpu" for group in optimizer.param_groups for parameter in group["params"]):
        return
    settings: Any = importlib.import_module("heavyball.utils")
    step: Any = type(optimizer).step

    def step_as_it_is(this: Optimizer, *args: Any, **kwargs: Any) -> Any:
        mode, settings.compile_mode = settings.compile_mode, None
        try:
            return step(this, *args, **kwargs)
        finally:
            settings.compile_mode = mode

    optimizer.step = MethodType(step_as_it_is, optimizer)  # type: ignore[method-assign]  # schedulers wrap methods


def no_triton_on_a_cpu(optimizer: Optimizer, place_of: PlaceOf) -> None:
    """Keep optimi off Triton kernels for parameters on a CPU, where it picks them once Triton is installed."""
    for group in optimizer.param_groups:
        if group["triton"] is None and all(parameter.device.type == "cpu" for parameter in group["params"]):
            group["triton"] = False


def plain_state(optimizer: Optimizer, place_of: PlaceOf) -> None:
    """Write an optimizer's own objects, queues and sets into state dicts as plain values, see :mod:`~.plain_state`."""
    keep_plain(optimizer)


def weights_stay_while_state_is_made(optimizer: Optimizer, place_of: PlaceOf) -> None:
    """Keep weights as they are in the step that torch's distributed checkpoints take before they load.

    Its rates and gradients are zero, by which some packages still round weights, or refuse to start.
    """
    kept: dict[Tensor, Tensor] = {}

    def before(this: Optimizer, *_: object) -> None:
        if not only_makes_state(this):
            return
        for parameter in (each for group in this.param_groups for each in group["params"]):
            if parameter.grad is not None:
                kept[parameter] = parameter.detach().clone()
                parameter.grad.fill_(1)

    def after(_: Optimizer, *__: object) -> None:
        for parameter, weight in kept.items():
            parameter.detach().copy_(weight)
        kept.clear()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def sums_over_shards(optimizer: Optimizer, place_of: PlaceOf) -> None:
    """Let a number that is taken of a sharded tensor be the whole's: torch returns this rank's part of a sum."""
    step: Any = type(optimizer).step

    def step_with_whole_numbers(this: Optimizer, *args: Any, **kwargs: Any) -> Any:
        # torch.compile cannot trace all that a package computes under a mode, nor does a whole parameter need one
        sharded = any(isinstance(each, DTensor) for group in this.param_groups for each in group["params"])
        with _WholeNumbers() if sharded else nullcontext():
            return step(this, *args, **kwargs)

    optimizer.step = MethodType(step_with_whole_numbers, optimizer)  # type: ignore[method-assign]  # schedulers wrap methods


def first_weights_at_full_size(optimizer: Optimizer, place_of: PlaceOf) -> None:
    """Write Prodigy's first weights of sharded parameters at full size, also where all were zero.

    It keeps one number of these, and torch's distributed checkpoints load into what weights that are loaded already
    would keep.
    """

    def save(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        def at_full_size(held: dict[str, Any]) -> dict[str, Any]:
            small = isinstance(held.get("s"), DTensor) and held["p0"].shape != held["s"].shape
            return {**held, "p0": torch.zeros_like(held["s"])} if small else held

        return {**state_dict, "state": {index: at_full_size(held) for index, held in state_dict["state"].items()}}

    optimizer.register_state_dict_post_hook(save)


class _WholeNumbers(TorchFunctionMode):
    """Sums what is computed of a DTensor over its ranks, where that is a number: a norm, say, adds up with others."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return tree_map_only(DTensor, _whole_number, function(*args, **(kwargs or {})))


def _whole_number(tensor: DTensor) -> Tensor:
    return tensor if tensor.dim() else tensor.full_tensor()


def plain_parts_of_shards(optimizer: Optimizer, place_of: PlaceOf) -> None:
    """Let torchao step on each process's own part of a sharded parameter, see :mod:`~.quantized_shards`."""
    step_on_parts(optimizer)


def generator_in_state(optimizer: Any, place_of: PlaceOf) -> None:
    """Keep the generator that timm's Adahessian draws from in its state dict, so that a resumed run draws on."""

    def save(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {**state_dict, "generator": optimizer.generator.get_state()}

    def load(_: Optimizer, state_dict: dict[str, Any]) -> None:
        if "generator" in state_dict:
            optimizer.generator.set_state(state_dict["generator"].cpu())

    optimizer.register_state_dict_post_hook(save)
    optimizer.register_load_state_dict_pre_hook(load)


def rate_in_groups(optimizer: Optimizer, place_of: PlaceOf) -> None:
    """Give the groups a learning rate, which schedulers and logs read, where the step size is not one."""
    for group in optimizer.param_groups:
        if group.get("lr") is None:
            group["lr"] = 0.0


def torch_hooks(optimizer: Optimizer, place_of: PlaceOf) -> None:
    """Complete an optimizer that did not call torch's constructor."""
    Optimizer.__setstate__(optimizer, {})


def offloaded_to_cpu(optimizer: Optimizer, **keywords: object) -> Optimizer:
    """Return torchao's CPU offload of an optimizer that is just built: it builds one for each parameter itself."""
    module = packages.load(
        "torchao.optim", needed_by="cpu_offload", package="torchao", install="pip install 'anyoptim[torchao]'"
    )
    offload: Any = module.CPUOffloadOptimizer
    shared = {
        key: value for key, value in optimizer.defaults.items() if key in inspect.signature(type(optimizer)).parameters
    }
    built: Optimizer = offload(optimizer.param_groups, type(optimizer), **keywords, **shared)
    return built
