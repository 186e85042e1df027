"""What our own optimizers share: how state is loaded, which gradients are refused, and tensors cut to the cache.

Engines never read a tensor's value: clipping, limiters and norms stay tensors, so that a step waits for no GPU and
runs under fake tensors. Of DTensors, elementwise work is on the local part; norms, means and low-rank products are
DTensor operations whose partial sums are reduced before they are used.

``adamw`` calls the kernel behind ``AdamW(fused=True)``, on a CPU 3 to 5 times faster than foreach operations. What
has no kernel works in pieces that fit the cache.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.distributed
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.optim import Optimizer

from anyoptim.engines.copies import kept_attributes
from anyoptim.engines.loading import after_loading, before_loading
from anyoptim.engines.ranges import refuse_out_of_range
from anyoptim.errors import UnsupportedError

CACHED = 2**17
"""Elements per piece on a CPU: five fp32 pieces of this size fit a core's cache; smaller ones cost more calls."""


class Engine(Optimizer):
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
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                self._settle(parameter)
        for group in self.param_groups:
            self.update_group(group, [each for each in group["params"] if each.grad is not None])
        return loss

    def update_one(self, group: dict[str, Any], parameter: Tensor) -> None:
        """Update one parameter of ``group``, which has a gradient: a part of what :meth:`step` does."""
        refuse_capture(self)
        self._settle(parameter)
        self.update_group(group, [parameter])

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


def lay_out_gradient(parameter: Tensor) -> None:
    """Lay out the gradient of a DTensor as the parameter is laid out.

    Under sequence parallelism each process holds the sum over its part of a sequence, still to be reduced.
    """
    gradient = parameter.grad
    if isinstance(gradient, DTensor) and isinstance(parameter, DTensor) and gradient.placements != parameter.placements:
        parameter.grad = gradient.redistribute(placements=parameter.placements)


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


def several_processes() -> bool:
    """Whether this process trains together with others."""
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a DTensor, sharing its storage; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a DTensor's value gathered and reduced over its mesh; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a tensor replicated over the mesh of ``other``, where only that is a DTensor; else as it is."""
    if isinstance(other, DTensor) and not isinstance(tensor, DTensor):
        mesh = other.device_mesh
        return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return tensor


def part(tensor: Tensor, weight: Tensor, *shared: int) -> Tensor:
    """Return, as a plain tensor, what of ``tensor`` belongs to this process's part of a weight.

    Args:
        tensor: of as many dimensions as the weight; whole on every process, or a DTensor.
        weight: decides how dimensions are split over processes.
        shared: negative dimensions that ``tensor`` has in place of the weight's, so that they are not split.
    """
    tensor = like(tensor, weight)
    if not isinstance(tensor, DTensor):
        return tensor
    assert isinstance(weight, DTensor)
    kept = {None, *(tensor.dim() + each for each in shared)}
    # what splits has a dimension, also where a dimension is split twice, which is no Shard
    placements = [Replicate() if getattr(each, "dim", None) in kept else each for each in weight.placements]
    return local(tensor.redistribute(placements=placements))


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which the arithmetic on tensors of ``dtype`` is done: fp32, or its own if that is wider."""
    return torch.promote_types(dtype, torch.float32)


def take_gradient(parameter: Tensor, clip_value: float | None) -> Tensor:
    """Return a gradient of at least fp32 that may be overwritten, and leave the parameter without one.

    Args:
        parameter: has a gradient.
        clip_value: clamp every element to ``[-clip_value, clip_value]``.
    """
    assert parameter.grad is not None
    gradient = parameter.grad.to(wide(parameter.dtype))
    parameter.grad = None
    return gradient if clip_value is None else gradient.clamp_(-clip_value, clip_value)


def reduced(tensor: Tensor) -> Tensor:
    """Return a DTensor of the same value with no partial sums pending; any other tensor as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    return tensor.redistribute(
        placements=[Replicate() if isinstance(each, Partial) else each for each in tensor.placements]
    )


def mean(tensor: Tensor, dim: int) -> Tensor:
    """Return the mean over a dimension; of a DTensor with no partial sums pending."""
    return reduced(tensor.sum(dim=dim)) / tensor.shape[dim]


def bias_correction(betas: tuple[float, float], step: int) -> float:
    """Return Adam's factor of the learning rate, for an eps that is added before correction (arXiv 1412.6980, 2)."""
    return math.sqrt(1 - betas[1] ** step) / (1 - betas[0] ** step)


def adamw(
    weight: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    correction: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float = 0.0,
) -> None:
    """Advance the moments m, v and the weight in place, in one pass by torch's fused kernel.

    ``weight = weight * (1 - lr * weight_decay) - lr * correction * m / (sqrt(v) + eps)``

    Args:
        weight: of any shape; of a DTensor the local part is updated. All four are of its shape, dtype and device.
        gradient: what the moments are advanced by.
        exp_avg: m, contiguous.
        exp_avg_sq: v, contiguous.
        lr: learning rate.
        correction: factor of lr, see :func:`bias_correction`.
        betas: decay rates of m and v.
        eps: added to the denominator.
        weight_decay: decoupled.
    """
    weight = local(weight)
    if torch.compiler.is_compiling():
        # the kernel's numbers would be constants of a graph, which a compiler fuses without it
        exp_avg, exp_avg_sq, gradient = local(exp_avg), local(exp_avg_sq), local(gradient)
        weight.mul_(1 - lr * weight_decay)
        exp_avg.lerp_(gradient, 1 - betas[0])
        exp_avg_sq.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
        weight.addcdiv_(exp_avg, exp_avg_sq.sqrt().add_(eps), value=-lr * correction)
        return
    # the kernel reads memory in order, whatever the strides
    target = weight.contiguous()
    torch._fused_adamw_(
        [target],
        [local(gradient).contiguous()],
        [local(exp_avg)],
        [local(exp_avg_sq)],
        [],
        # it corrects by 1 - beta ** step: not at all, at step infinity
        [torch.full((), math.inf, device=target.device)],
        lr=lr * correction,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=weight_decay / correction,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )
    if target is not weight:
        weight.copy_(target)


def cached(tensor: Tensor) -> bool:
    """Whether it pays to work on a tensor in pieces of ``CACHED`` elements: in a CPU's memory, which a fake has not."""
    return tensor.device.type == "cpu" and not isinstance(tensor, FakeTensor)


def pieces(
    tensors: Mapping[str, Sequence[Tensor]], scalars: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[dict[str, list[Tensor]], dict[str, list[Any]]]]:
    """Cut elementwise work into calls: the whole group at once on an accelerator, cache-sized pieces on a CPU.

    Args:
        tensors: lists of equal length; the tensors at one index have one shape.
        scalars: lists of the same length, one value for each index.

    Yields:
        the same lists, of what one batched call is to work on.
    """
    names = list(tensors)
    rows = [[local(each) for each in row] for row in zip(*tensors.values(), strict=True)]
    if rows and not cached(rows[0][0]):
        columns = {name: [row[at] for row in rows] for at, name in enumerate(names)}
        yield columns, {name: list(given) for name, given in scalars.items()}
        return
    for index, row in enumerate(rows):
        values = {name: [given[index]] for name, given in scalars.items()}
        if row[0].numel() > CACHED and all(each.is_contiguous() for each in row):
            flat = [each.view(-1) for each in row]
            for start in range(0, flat[0].numel(), CACHED):
                cut = [each[start : start + CACHED] for each in flat]
                yield {name: [each] for name, each in zip(names, cut, strict=True)}, values
        else:
            yield {name: [each] for name, each in zip(names, row, strict=True)}, values
