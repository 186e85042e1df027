"""What stands around an optimizer that packs: fused backward, loops, schedules, copies; and what cannot have it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from halves import assert_same, built, gradients, half_and_copy, low_model, plain_state, stepped, wide
from torch import nn

import anyoptim
from anyoptim.engines.composite import inside
from anyoptim.engines.fused_backward import FusedBackward
from anyoptim.engines.stored import Stored
from anyoptim.testing.subject import tiny_model


@pytest.mark.parametrize(("master", "state"), [("24bit", "int8"), ("stochastic", "own"), ("own", "bf16")])
@pytest.mark.parametrize("name", ["adamw_torch", "muon", "apollo_adamw", "pytorch_optimizer/lamb"])
def test_updates_in_the_backward_pass_are_the_same(name: str, master: str, state: str) -> None:
    found = []
    for fused in ("true", "false"):
        torch.manual_seed(3)
        model = low_model(name)
        optimizer = built(name, model, f"master_weights={master},state_dtype={state},fused_backward={fused}")
        assert isinstance(optimizer, FusedBackward) == (fused == "true")
        for step in range(4):
            losses = [(each * gradient).sum() for each, gradient in gradients(model, step)]
            torch.stack(losses).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append({**wide(model, optimizer), **plain_state(optimizer)})
    assert_same(*found)


@pytest.mark.parametrize("name", ["adamw_torch", "muon"])
def test_a_loop_with_everything_in_it(name: str) -> None:
    """Accumulation, clipping, a schedule, a group that comes later: as a copy in fp32 with the same gradients."""
    (low, stored), (copied, plain) = half_and_copy(name, "master_weights=32bit")
    schedules = [torch.optim.lr_scheduler.StepLR(each, 2, 0.7) for each in (stored, plain)]
    added: list[nn.Parameter] = []
    for step in range(12):
        for micro in range(2):
            loss = sum((each * gradient).sum() for each, gradient in gradients(low, 2 * step + micro))
            loss.backward()
        nn.utils.clip_grad_norm_(low.parameters(), 1.0)
        for parameter, other in zip(low.parameters(), copied.parameters(), strict=True):
            other.grad = None if parameter.grad is None else parameter.grad.float()
        for optimizer, schedule in zip((stored, plain), schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if step == 5:
            for model, optimizer in ((low, stored), (copied, plain)):
                values = torch.linspace(-1, 1, 64).view(8, 8).to(torch.bfloat16)
                made = nn.Parameter(values.to(next(model.parameters()).dtype))
                model.register_parameter("added", made)
                own = {key: value for key, value in optimizer.param_groups[-1].items() if key != "params"}
                optimizer.add_param_group({**own, "params": [made]})
                schedules[len(added)].base_lrs.append(own["lr"])
                added.append(made)
        assert_same(wide(low, stored), dict(copied.state_dict()))
    assert all(stored.state[added[0]])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
@pytest.mark.parametrize("args", ["master_weights=24bit,state_dtype=int8", "master_weights=stochastic"])
def test_copies_train_alike(args: str, copied: Callable[[Any], Any]) -> None:
    model = tiny_model(dtype=torch.bfloat16)
    optimizer = built("adamw_torch", model, args)
    stepped(model, optimizer, range(3))
    other, twin = copied((model, optimizer))
    stepped(model, optimizer, range(3, 6))
    stepped(other, twin, range(3, 6))
    assert_same(wide(model, optimizer), wide(other, twin))
    assert_same(plain_state(optimizer), plain_state(twin))
    assert next(inside(twin, Stored)).state is not next(inside(optimizer, Stored)).state


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("sam(adamw_torch)", {"optim_args": "master_weights=24bit"}, "sam evaluates the loss at other weights"),
        ("prodigy", {"optim_args": "master_weights=24bit"}, "prodigy does not support master_weights: "),
        (
            "adamw_torch",
            {"optim_args": "state_dtype=int8", "deepspeed": {"zero": 2}},
            "beside DeepSpeed's fp32 weights; leave master_weights, state_dtype and offload out of optim_args",
        ),
        ("adamw_torch", {"optim_args": "offload_dir=/tmp"}, "offload_dir has no effect without offload=disk"),
        ("adamw_torch", {"optim_args": "offload=cpu,offload_dir=/tmp"}, "offload_dir has no effect without"),
        (
            "lookahead(adamw_torch)",
            {"optim_args": "state_dtype=int8", "fsdp": "full_shard"},
            "cannot go around a wrapper",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(anyoptim.UnsupportedError, match=message) as refused:
        anyoptim.plan(name, tiny_model(dtype=torch.bfloat16), fields)
    assert str(refused.value).endswith(".")
