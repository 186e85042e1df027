"""torch's distributed checkpoints without a Trainer: what they load is what was saved, for one process and for two."""

from __future__ import annotations

import copy
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from meshes import distance, fsdp, net, one_step, optimizer, weights
from ranks import Cases, found
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

SAVED, STEPS = 3, 6
STATELESS = ["lomo", "muon+sgd", "muon+lomo", "adamw_torch+sgd", "lookahead(muon+sgd)"]
TWO_SETS = ["schedule_free_adamw", "schedule_free_sgd", "schedule_free(sgd)", "muon+schedule_free_adamw"]
ENGINES = ["muon", "apollo_mini", "galore_adamw", "grokadamw", "adalomo"]
NAMES = [*STATELESS, *TWO_SETS, *ENGINES, "adamw_torch"]
SETS = ["soap", "heavyball/adamw"]
LOST = {
    "adam_mini": "numbers on a mesh",
    "conda": "tensors that are not contiguous, in an object",
    "muonclip": "tuples in groups",
    "scion": "an empty dict in groups",
    "timm/adafactorbv": "a dtype in groups",
    "pytorch_optimizer/emolynx": "state of no parameter",
    "pytorch_optimizer/aggmo": "state by numbers",
    "pytorch_optimizer/amos": "numbers alone",
    "sgd": "no state at all",
    "madgrad": "weights that move at rate zero",
    "heavyball/sfadamw": "weights that become NaN at rate zero",
    "heavyball/psgdlra": "a first step that gradients of zeros stop",
    "sam(adamw_torch)": "a step that needs a closure",
    "prodigy": "numbers of sums over shards",
}
"""What torch's distributed checkpoints would lose of each."""


def made(name: str, *sizes: int, sharded: bool) -> tuple[nn.Module, Any]:
    model: nn.Module = net(*sizes, dtype=torch.float32)
    if sharded:
        fsdp(model)
    return model, optimizer(name, model)


def resumes(name: str, *sizes: int, full: bool, flat: bool = False, sharded: bool = True) -> None:
    """Save, go on, and load into a fresh model and optimizer, which must go on alike to the last bit."""
    saving = StateDictOptions(full_state_dict=full, cpu_offload=full and sharded, flatten_optimizer_state_dict=flat)
    loading = StateDictOptions(
        full_state_dict=full, broadcast_from_rank0=full and sharded, flatten_optimizer_state_dict=flat
    )
    model, running = made(name, *sizes, sharded=sharded)
    for step in range(SAVED):
        one_step(model, running, step)
    saved = copy.deepcopy(get_optimizer_state_dict(model, running, options=saving))
    saved_weights = copy.deepcopy(get_model_state_dict(model, options=saving))
    fresh, resumed = made(name, *sizes, sharded=sharded)
    set_model_state_dict(fresh, saved_weights, options=loading)
    if sharded and not full:
        folder = [tempfile.mkdtemp()]
        dist.broadcast_object_list(folder)
        dcp.save({"optimizer": saved}, checkpoint_id=folder[0])
        held: Any = {"optimizer": get_optimizer_state_dict(fresh, resumed, options=saving)}
        dcp.load(held, checkpoint_id=folder[0])
        saved = held["optimizer"]
    set_optimizer_state_dict(fresh, resumed, saved, options=loading)
    for each, its_optimizer in ((model, running), (fresh, resumed)):
        torch.manual_seed(0)  # some draw random numbers
        for step in range(SAVED, STEPS):
            one_step(each, its_optimizer, step)
    assert distance(weights(fresh), weights(model)) == 0


@pytest.mark.parametrize("full", [False, True], ids=["", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_one_process_resumes(name: str, full: bool) -> None:
    resumes(name, full=full, sharded=False)


@pytest.mark.parametrize("name", [*STATELESS, *TWO_SETS])
def test_one_process_resumes_from_flat_names(name: str) -> None:
    resumes(name, full=False, flat=True, sharded=False)


@pytest.mark.parametrize("name", ["adamw_torch", "lookahead(adamw_torch)", "grokadamw"])
def test_a_group_without_parameters_keeps_its_keys(name: str) -> None:
    """Nothing here goes without weight decay; of such a group torch loads no value unless it is the last one."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    saving, loading = (optimizer(name, model, groups=[{"match": "1", "lr_ratio": 0.5}]) for _ in range(2))
    before = [set(group) for group in loading.param_groups]
    assert [len(group["params"]) for group in loading.param_groups] == [1, 0, 1]
    model(torch.ones(2, 8)).sum().backward()
    saving.step()
    saving.zero_grad()
    set_optimizer_state_dict(model, loading, copy.deepcopy(get_optimizer_state_dict(model, saving)))
    assert [held - set(group) for group, held in zip(loading.param_groups, before, strict=True)] == [set()] * 3
    model(torch.ones(2, 8)).sum().backward()
    loading.step()


TWO: Cases = {
    f"{name}, {'full' if full else 'sharded'}": partial(resumes, name, full=full)
    for name in (*NAMES, *SETS, *LOST)
    for full in (False, True)
}
UNEVEN: Cases = {
    f"{name}, {'full' if full else 'sharded'}": partial(resumes, name, 256, 35, full=full)
    for name in ("adamw_torch_8bit", "adamw_torch_4bit", "torchao/adamw_fp8")
    for full in (False, True)
}
"""Rows that two ranks cannot share alike, in blocks of 256 all the same: quantized on each rank, and compiled."""


@pytest.mark.parametrize("case", TWO)
def test_two_ranks_resume(case: str, folder: Path) -> None:
    assert found(TWO, 2, folder / "checkpoints.json")[case] == [""] * 2


@pytest.mark.slow
def test_uneven_shards_of_quantized_state_resume(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    assert found(UNEVEN, 2, tmp_path / "uneven.json") == dict.fromkeys(UNEVEN, [""] * 2)


@pytest.mark.parametrize("optim_args", ["", "fused_backward=true"], ids=["", "fused"])
def test_loaded_training_weights_are_gone_after_a_step(optim_args: str) -> None:
    """Under fused backward a hybrid's own step is never called, and its hooks run all the same."""
    name = "muon+schedule_free_adamw"
    saved: Any = None
    for _ in range(2):
        model = net(dtype=torch.float32)
        built = optimizer(name, model, optim_args=optim_args)
        if saved is not None:
            built.load_state_dict(saved)
            assert any("training_weight" in each for each in built.state.values())
        one_step(model, built, 0)
        assert not any("training_weight" in each for each in built.state.values())
        saved = copy.deepcopy(built.state_dict())
