"""One small model on many meshes, against the run of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import anyoptim
from anyoptim.engines.closure import WithClosure

STEPS = 5


class Net(nn.Module):
    """A normed layer in, a layer out: sizes that two and four ranks divide."""

    def __init__(self, width: int = 8, hidden: int = 16) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor, *, skips: bool = False) -> Tensor:
        """Compute, or skip the layer in between."""
        inner = self.norm(x).repeat(1, self.up.out_features // x.shape[-1]) if skips else self.up(self.norm(x))
        return self.down(inner.tanh())


def net(*sizes: int, dtype: torch.dtype = torch.float64) -> Net:
    torch.manual_seed(0)
    return Net(*sizes).to(dtype)


def optimizer(name: str, model: nn.Module, **given: Any) -> Any:
    """The optimizer of a name, at settings that fit the small model."""
    spec = anyoptim.optimizer_info(name)
    if spec.traits.names_targets:
        given["optim_target_modules"] = ["up", "down"]
    if any(each.name == "rank" for each in spec.hyperparameters):
        given.setdefault("rank", 2)
    built = anyoptim.get_optimizer(name, model, **{"lr": 0.01, **given})
    if hasattr(built, "train"):
        built.train()
    return built


def batch(step: int, width: int = 8) -> Tensor:
    return torch.randn(16, width, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def one_step(
    model: nn.Module, optimizer: Any, step: int, change_gradients: Callable[[nn.Module], None] | None = None
) -> None:
    """A step on the same whole batch on every rank, which a mean over ranks leaves as it is."""

    width = next((each.norm.normalized_shape[0] for each in model.modules() if isinstance(each, Net)), 8)

    def closure() -> float:
        optimizer.zero_grad()
        first = next(model.parameters())
        x = batch(step, width).to(first.dtype)
        if change_gradients is not None:  # the whole model is on one mesh
            assert isinstance(first, DTensor)
            x = DTensor.from_local(x, first.device_mesh, [Replicate()], run_check=False)
        loss = (model(x) - x.roll(1, 0)).square().mean()
        loss.backward()
        if change_gradients is not None:
            change_gradients(model)
        return float(whole(loss.detach()))

    closure()
    optimizer.step(closure) if isinstance(optimizer, WithClosure) else optimizer.step()
    optimizer.zero_grad()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: whole(each.detach()).clone() for name, each in model.named_parameters()}


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def distance(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    return max(float((left[name] - right[name]).abs().max() / right[name].abs().max()) for name in right)


# ---------------------------------------------------------------- the meshes


def fsdp(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.children():
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


PLAN = {"up": ColwiseParallel(), "down": RowwiseParallel()}


def tp(model: nn.Module) -> nn.Module:
    return parallelize_module(model, init_device_mesh("cpu", (dist.get_world_size(),)), dict(PLAN))


def fsdp_tp(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("dp", "tp"))
    parallelize_module(model, mesh["tp"], dict(PLAN))
    for layer in model.children():
        fully_shard(layer, mesh=mesh["dp"])
    return fully_shard(model, mesh=mesh["dp"])


def hsdp(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("replicas", "shards"))
    for layer in model.children():
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def offloaded(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.children():
        fully_shard(layer, mesh=mesh, offload_policy=CPUOffloadPolicy(pin_memory=False))
    return fully_shard(model, mesh=mesh, offload_policy=CPUOffloadPolicy(pin_memory=False))


def replicated(model: nn.Module) -> nn.Module:
    """Parameters that lie whole on every rank, each of which holds a part of a gradient's sum."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            laid = DTensor.from_local(parameter.detach(), mesh, [Replicate()], run_check=False)
            module.register_parameter(name, nn.Parameter(laid))
    return model


def partial_gradients(model: nn.Module) -> None:
    """Give every parameter its gradient as this rank's share of the sum, as sequence parallelism does."""
    rank, size = dist.get_rank(), dist.get_world_size()
    for parameter in model.parameters():
        assert isinstance(parameter, DTensor)
        gradient = whole(parameter.grad)
        shares = [0.3 + each for each in range(size)]
        share = gradient * (shares[rank] / sum(shares))
        parameter.grad = DTensor.from_local(share, parameter.device_mesh, [Partial()], run_check=False)


MESHES: dict[str, Callable[[nn.Module], nn.Module]] = {
    each.__name__: each for each in (fsdp, tp, fsdp_tp, hsdp, offloaded, replicated)
}


def trained(name: str, mesh: str | None, steps: int = STEPS, **given: Any) -> Iterator[dict[str, Tensor]]:
    """The weights after each step, on a mesh or in one process."""
    model = net()
    if mesh is not None:
        MESHES[mesh](model)
    built = optimizer(name, model, **given)
    for step in range(steps):
        one_step(model, built, step)
        yield weights(model)


def as_one(name: str, mesh: str, bound: float = 1e-9, **given: Any) -> None:
    """Assert that a name trains on a mesh as it does in one process."""
    for step, (actual, expected) in enumerate(
        zip(trained(name, mesh, **given), trained(name, None, **given), strict=True)
    ):
        worst = distance(actual, expected)
        assert worst <= bound, f"{name} on {mesh} differs by {worst:.1e} in step {step}"
