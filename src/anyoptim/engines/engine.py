"""What our own optimizers share: how they step, how state is loaded, and which gradients are refused.

Engines never read a tensor's value: clipping, limiters and norms stay tensors, so that a step waits for no GPU and
runs under fake tensors.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from anyoptim.engines.copies import kept_attributes
from anyoptim.engines.distributed import lay_out_gradient
from anyoptim.engines.loading import after_loading, before_loading
from anyoptim.engines.ranges import refuse_out_of_range
from anyoptim.engines.stepping import StepsParts, evaluated
from anyoptim.errors import UnsupportedError


class Engine(StepsParts):
    """A ``torch.optim.Optimizer`` whose state is tensors and plain values, made at the first step."""

    foreign_state: ClassVar[tuple[str, str]] = ("", "")
    """A key that only the upstream package's state dict has, and that package's name."""
    takes_complex: ClassVar[bool] = False
    """Whether its arithmetic is right for complex parameters, too."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group whose values are in range."""
        super().add_param_group(param_group)
        try:
            refuse_out_of_range(type(self), self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch has overloads
        """Update every parameter that has a gradient.

        Args:
            closure: computes the loss again and returns it.

        Raises:
            RuntimeError: a gradient is sparse.
            UnsupportedError: a CUDA graph is being captured.
        """
        refuse_capture(self)
        loss = evaluated(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self._settle(parameter)
        for group in self.param_groups:
            self.update_group(group, [each for each in group["params"] if each.grad is not None])
        return loss

    def step_part(self, group: dict[str, Any], parameters: Sequence[Tensor]) -> Mapping[str, Any]:
        """Update some parameters of ``group``, which have a gradient: a part of what :meth:`step` does."""
        refuse_capture(self)
        for parameter in parameters:
            self._settle(parameter)
        self.update_group(group, list(parameters))
        return {}

    def _settle(self, parameter: Tensor) -> None:
        """Refuse a gradient that is sparse, and lay out one of a DTensor as its parameter is laid out."""
        gradient = parameter.grad
        if gradient is None:
            return
        if gradient.is_sparse:
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients.")
        if parameter.is_complex() and not self.takes_complex:
            raise UnsupportedError(
                f"{type(self).__name__} is defined for real parameters, and one of shape {tuple(parameter.shape)} is"
                " complex; leave it out of the target modules, or take adamw_torch."
            )
        lay_out_gradient(parameter)

    def update_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Apply one step to ``parameters``, the ones of ``group`` that have a gradient."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load state as it was saved, in its own dtype.

        Raises:
            UnsupportedError: it was saved by the upstream package's class.
        """
        state_dict = before_loading(self, state_dict)
        key, package = self.foreign_state
        held = [*state_dict["param_groups"], *state_dict["state"].values()]
        if key and any(key in each for each in held):
            raise UnsupportedError(
                f"This state was saved by {package}'s class, in a form of its own; load it with"
                " implementation=upstream, or start the optimizer afresh."
            )
        saved, live = state_dict["param_groups"], self.param_groups
        if [len(group["params"]) for group in saved] != [len(group["params"]) for group in live]:
            raise ValueError("loaded state dict has other param groups than the optimizer")
        of_the_model = ("params", "param_names")
        groups = [
            {**copy.deepcopy(_without(old, of_the_model)), **{key: new[key] for key in of_the_model if key in new}}
            for old, new in zip(saved, live, strict=True)
        ]
        indices = [index for group in saved for index in group["params"]]
        parameter_of = dict(zip(indices, (each for group in live for each in group["params"]), strict=True))
        state: defaultdict[Any, Any] = defaultdict(dict)
        for index, values in state_dict["state"].items():
            parameter = parameter_of.get(index)
            state[index if parameter is None else parameter] = _moved(values, parameter)
        # torch would cast state to the parameter's dtype, and round the fp32 state of bf16 weights
        self.__setstate__({"state": state, "param_groups": groups})
        after_loading(self)

    def __getstate__(self) -> dict[str, Any]:
        return kept_attributes(self)


def _without(group: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in keys}


def _moved(value: Any, parameter: Tensor | None) -> Any:
    """Return loaded state where its parameter is, in containers of its own; a tensor that is there is not copied."""
    if isinstance(value, Tensor):
        return value if parameter is None else value.to(parameter.device)
    if isinstance(value, dict):
        return {key: _moved(each, parameter) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(each, parameter) for each in value)
    return value


def refuse_capture(optimizer: Optimizer) -> None:
    """Raise while a CUDA graph is captured, which would repeat what Python computed for that one step.

    Raises:
        UnsupportedError: it is.
    """
    # torch.compile guards the numbers that it puts into a graph, and cannot trace the question
    if torch.compiler.is_compiling():
        return
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise UnsupportedError(
            f"A CUDA graph would repeat one step of {type(optimizer).__name__} with its step count and learning rate"
            " frozen: leave step(), and a backward pass that updates, out of what is captured."
        )
