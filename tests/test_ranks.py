"""What several ranks do, against one process: meshes, gradients that are parts of a sum, checkpoints."""

from __future__ import annotations

import copy
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from meshes import (
    MESHES,
    STEPS,
    as_one,
    batch,
    distance,
    net,
    one_step,
    optimizer,
    partial_gradients,
    trained,
    weights,
)
from ranks import Cases, found
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor.parallel import SequenceParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import anyoptim
from anyoptim.engines.apollo import APOLLOAdamW
from anyoptim.engines.composite import CompositeOptimizer
from anyoptim.engines.lookahead import Lookahead
from anyoptim.integrations.whole import _flaw

FUSED = ["lomo", "adalomo"]
MUONS = ["muon", "normuon", "adamuon"]
LOW_RANK = ["apollo_adamw", "apollo_mini", "galore_adamw", "galore_adamw_8bit", "galore_adafactor"]
ENGINES = [*MUONS, *LOW_RANK, "grokadamw", *FUSED]
HYBRIDS = ["muon+sgd", "muon+prodigy"]
WRAPPED = ["lookahead(muon)", "cautious(lion)", "orthograd(adamw_torch)", "schedule_free(sgd)", "sam(adamw_torch)"]
PACKAGES = ["adamw_torch", "lion", "adopt", "lbfgs", "timm/adafactorbv"]
LOCAL = ["apollo_mini", "muon+adopt"]
"""Those that look at a gradient's local part, or change it in place."""


# ---------------------------------------------------------------- gradients that are parts of a sum (A3)


def sums_are_reduced(name: str) -> None:
    """Sequence parallelism leaves the parts of a sum as gradients; some packages change a gradient in place."""
    model = MESHES["replicated"](net())
    built = optimizer(name, model)
    for step, expected in enumerate(trained(name, None)):
        one_step(model, built, step, partial_gradients)
        assert distance(weights(model), expected) <= 1e-9


def sequence_parallel(name: str, **given: Any) -> None:
    """torch's own: each rank normalises its part of the sequence."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(4)
            self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x)

    model = Normed()
    parallelize_module(model, init_device_mesh("cpu", (2,)), {"norm": SequenceParallel()})
    built = optimizer(name, model, **given)
    torch.manual_seed(dist.get_rank())
    x = torch.randn(2, 3, 4)
    for _ in range(3):
        (model(x).to_local() * x).sum().backward()
        built.step()
        built.zero_grad()
    for each in model.norm.parameters():
        mine = each.to_local().detach()
        both = [torch.empty_like(mine), torch.empty_like(mine)]
        dist.all_gather(both, mine.contiguous())
        assert torch.equal(*both)


# ---------------------------------------------------------------- ranks that hold different parameters (G5)


def zero_projects_by_name() -> None:
    """A matrix is projected alike whichever rank's partition it is in."""

    def groups(model: nn.Module) -> list[dict[str, object]]:
        named = [(name, each) for name, each in model.named_parameters() if each.dim() == 2]
        return [{"params": [each], "param_names": [name], "rank": 2} for name, each in named]

    model, alone = net(), net()
    split = ZeroRedundancyOptimizer(groups(model), optimizer_class=APOLLOAdamW, lr=0.01)
    one = APOLLOAdamW(groups(alone), lr=0.01)
    for step in range(STEPS):
        one_step(model, split, step)
        one_step(alone, one, step)
        assert distance(weights(model), weights(alone)) == 0


def zero_refuses_facades() -> None:
    for kind in (CompositeOptimizer, Lookahead):
        with pytest.raises(anyoptim.UnsupportedError, match="fully_shard"):
            ZeroRedundancyOptimizer(net().parameters(), optimizer_class=kind)


# ---------------------------------------------------------------- flat pieces (G3)


def flat(model: nn.Module, *, use_orig_params: bool) -> nn.Module:
    wrapped = ModuleWrapPolicy({nn.Linear})
    return FullyShardedDataParallel(
        model, use_orig_params=use_orig_params, device_id=torch.device("cpu"), auto_wrap_policy=wrapped
    )


def flat_pieces_are_refused(name: str) -> None:
    for use_orig_params in (True, False):
        with pytest.raises(anyoptim.UnsupportedError, match="fully_shard"):
            optimizer(name, flat(net(), use_orig_params=use_orig_params))


def adamw_trains_on_flat_pieces() -> None:
    model, alone = net(), net()
    sharded = flat(model, use_orig_params=True)
    split, one = optimizer("adamw_torch", sharded, weight_decay=0.1), optimizer("adamw_torch", alone, weight_decay=0.1)
    for step in range(STEPS):
        one_step(sharded, split, step)
        one_step(alone, one, step)
    with FullyShardedDataParallel.summon_full_params(sharded):
        found = {name.replace("_fsdp_wrapped_module.", ""): each.detach() for name, each in sharded.named_parameters()}
        assert distance(found, weights(alone)) <= 1e-9
    advice = anyoptim.plan("adamw_torch", flat(net(), use_orig_params=False), weight_decay=0.1).advice
    assert any("use_orig_params=True" in each for each in advice)


# ---------------------------------------------------------------- a rank that was stopped in a save (G7)


def a_missing_rank_is_found() -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder)
        (checkpoint / "trainer_state.json").write_text('{"global_step": 1}')
        assert _flaw(checkpoint) == ""  # saved without random state
        (checkpoint / "rng_state.pth").touch()
        assert _flaw(checkpoint) == ""  # by one process
        for ranks, missing in (([0], "1"), ([1], "0"), ([0, 1], ""), ([0, 2], "1"), ([0, 1, 2, 3], "")):
            for each in checkpoint.glob("rng_state*"):
                each.unlink()
            for rank in ranks:
                (checkpoint / f"rng_state_{rank}.pth").touch()
            assert (f"rng_state_{missing}.pth" in _flaw(checkpoint)) == bool(missing), (ranks, _flaw(checkpoint))


# ---------------------------------------------------------------- ranks that do different things


def pipeline_stages(name: str, **given: Any) -> None:
    """Each rank holds another module, and trains it as it is trained among all modules in one process."""
    rank = dist.get_rank()
    alone = net()
    stages = [nn.Sequential(alone.norm, alone.up, nn.Tanh()), nn.Sequential(alone.down)]
    stage = copy.deepcopy(stages[rank])
    targets = {"optim_target_modules": "all-linear"} if anyoptim.optimizer_info(name).traits.needs_targets else {}
    mine = anyoptim.get_optimizer(name, stage, lr=0.01, **targets, **given)
    one = anyoptim.get_optimizer(name, nn.Sequential(*stages), lr=0.01, **targets, **given)
    for step in range(STEPS):
        x = batch(step)
        nn.Sequential(*stages)(x).square().mean().backward()
        one.step()
        one.zero_grad()
        between = torch.empty(16, 16, dtype=torch.float64, requires_grad=True)
        if rank == 0:
            sent = stage(x)
            dist.send(sent.detach(), 1)
            gradient = torch.empty_like(sent)
            dist.recv(gradient, 1)
            sent.backward(gradient)
        else:
            dist.recv(between.detach(), 0)
            stage(between).square().mean().backward()
            assert between.grad is not None
            dist.send(between.grad, 0)
        mine.step()
        mine.zero_grad()
        assert distance(weights(stage), weights(stages[rank])) <= 1e-9


def a_gradient_on_one_rank_only(name: str, **given: Any) -> None:
    """DDP gives every rank the mean, also of what only one of them has used."""
    model, alone = net(), net()
    sharing = DistributedDataParallel(model, find_unused_parameters=True)
    split, one = optimizer(name, model, **given), optimizer(name, alone, **given)
    for step in range(STEPS):
        x = batch(step)
        sharing(x, skips=dist.get_rank() == 1).square().mean().backward()
        (sum(alone(x, skips=each).square().mean() for each in (False, True)) / 2).backward()
        split.step()
        one.step()
        split.zero_grad()
        one.zero_grad()
        assert distance(weights(model), weights(alone)) <= 1e-9


IN_BACKWARD: dict[str, Any] = {"optim_args": "fused_backward=true"}

TWO: Cases = {
    **{f"stages: {name}": partial(pipeline_stages, name) for name in ("adamw_torch", "muon", *FUSED)},
    "stages: fused adamw_torch": partial(pipeline_stages, "adamw_torch", **IN_BACKWARD),
    **{f"one gradient: {name}": partial(a_gradient_on_one_rank_only, name) for name in ("muon", "apollo_mini", *FUSED)},
    "one gradient: fused adamw_torch": partial(a_gradient_on_one_rank_only, "adamw_torch", **IN_BACKWARD),
    "a missing rank is found": a_missing_rank_is_found,
    **{f"{name} on offloaded": partial(as_one, name, "offloaded") for name in ("muon", "apollo_mini", "adamw_torch")},
    **{f"flat pieces: {name}": partial(flat_pieces_are_refused, name) for name in ("adalomo", "grokadamw", "muon")},
    "flat pieces: adamw_torch": adamw_trains_on_flat_pieces,
    **{f"sums: {name}": partial(sums_are_reduced, name) for name in (*ENGINES[:-2], *HYBRIDS, *WRAPPED, *PACKAGES)},
    **{f"sequence parallel: {name}": partial(sequence_parallel, name) for name in ENGINES},
    **{f"sequence parallel: fused {name}": partial(sequence_parallel, name, **IN_BACKWARD) for name in LOCAL},
    **{f"{name} on tp": partial(as_one, name, "tp") for name in ENGINES},
    "prodigy on fsdp": partial(as_one, "prodigy", "fsdp", lr=1.0),  # numbers of sums over shards
    "ZeRO projects by name": zero_projects_by_name,
    "ZeRO refuses facades": zero_refuses_facades,
}
FOUR: Cases = {
    f"{name} on {mesh}": partial(as_one, name, mesh)
    for name in (*ENGINES, *HYBRIDS, *WRAPPED, "adamw_torch")
    for mesh in ("fsdp_tp", "hsdp")
}


@pytest.mark.parametrize("case", TWO)
def test_two_ranks(case: str, folder: Path) -> None:
    assert found(TWO, 2, folder / "two-ranks.json")[case] == [""] * 2


@pytest.mark.slow
@pytest.mark.parametrize("case", FOUR)
def test_four_ranks(case: str, folder: Path) -> None:
    assert found(FOUR, 4, folder / "four-ranks.json")[case] == [""] * 4
