"""What is said of updates that rounding loses, what is recommended instead, and where the settings are told."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from processes import printed
from torch import nn
from toys import llama

import anyoptim
from anyoptim.integrations.models import meta_model
from anyoptim.planning.recommending import ROOM, Recommendation, recommend

LOST = "most of them are lost"


def advice(name: str = "adamw_torch", dtype: torch.dtype = torch.bfloat16, **fields: Any) -> list[str]:
    given = {"learning_rate": 2e-5, "weight_decay": 0.0, **fields}
    return [each for each in anyoptim.plan(name, llama().to(dtype), given).advice if LOST in each]


def test_updates_that_are_lost_are_said_once() -> None:
    (sentence,) = advice()
    assert "weights in bfloat16" in sentence and "lr=2e-05" in sentence
    assert sentence.endswith("set master_weights=24bit in optim_args")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = llama().bfloat16()
        optimizer = anyoptim.get_optimizer("adamw_torch", model, lr=2e-5)
        for each in model.parameters():
            each.grad = torch.ones_like(each)
        optimizer.step()
    assert len([each for each in said if LOST in str(each.message)]) == 1


def test_it_is_true() -> None:
    """What it says is lost is lost, and its mend mends it."""
    moved = {}
    for args in ("", "master_weights=24bit"):
        model = llama().bfloat16()
        optimizer = anyoptim.get_optimizer("adamw_torch", model, lr=2e-5, optim_args=args or None)
        before = {key: value.float().clone() for key, value in model.state_dict().items()}
        for _ in range(5):
            for each in model.parameters():
                each.grad = torch.ones_like(each)
            optimizer.step()
        after = anyoptim.fp32_weights(model, optimizer)
        name = "model.layers.0.mlp.up_proj.weight"
        moved[args] = float((before[name] - after[name].float()).mean())
    assert moved["master_weights=24bit"] == pytest.approx(5 * 2e-5, rel=0.02)
    assert moved[""] < moved["master_weights=24bit"] / 2 or moved[""] != pytest.approx(1e-4, rel=0.02)


@pytest.mark.parametrize("behind", ["24bit", "32bit", "stochastic", "kahan"])
def test_what_lies_behind_the_weights_is_the_mend(behind: str) -> None:
    assert not advice(optim_args=f"master_weights={behind}")


@pytest.mark.parametrize(
    ("name", "dtype", "fields"),
    [
        ("adamw_torch", torch.float32, {}),
        ("adamw_torch", torch.bfloat16, {"learning_rate": 1e-2}),
        ("sgd", torch.bfloat16, {"learning_rate": 1e-2}),
        ("optimi/adamw", torch.bfloat16, {"optim_args": "kahan_sum=true"}),
    ],
)
def test_it_is_not_said_where_it_is_not_so(name: str, dtype: torch.dtype, fields: dict[str, Any]) -> None:
    if not anyoptim.optimizer_info(name).installed:
        pytest.skip(f"{name} is not installed")
    assert not advice(name, dtype, **fields)


def test_fp16_has_finer_steps() -> None:
    assert not advice(dtype=torch.float16)
    (sentence,) = advice(dtype=torch.float16, learning_rate=1e-7)
    assert "weights in float16" in sentence


@pytest.mark.parametrize(
    ("args", "dtype", "message"),
    [
        ("master_weights=24bit", torch.float32, "master_weights=24bit has no effect: no trainable weight is in bf16"),
        ("save_fp32=true", torch.bfloat16, "save_fp32 has no effect: nothing lies behind the weights"),
        ("save_fp32=true,master_weights=stochastic", torch.bfloat16, "save_fp32 has no effect"),
    ],
)
def test_a_setting_without_effect_is_said(args: str, dtype: torch.dtype, message: str) -> None:
    found = anyoptim.plan("adamw_torch", llama().to(dtype), {"learning_rate": 1e-2, "optim_args": args}).advice
    assert len([each for each in found if message in each]) == 1


# ---------------------------------------------------------------- recommended and told


def fitting(model: nn.Module, room: int) -> tuple[Recommendation, ...]:
    """AdamW as it fits into so many bytes, beside what is kept for activations."""
    return recommend(model, int(room / (1 - ROOM)), ["adamw_torch"]).best


def test_what_does_not_fit_is_packed() -> None:
    model = meta_model("llama-60m", "bf16")
    elements = sum(each.numel() for each in model.parameters())
    plain = anyoptim.plan("adamw_torch", model, {"learning_rate": 1e-4}).footprint().total
    assert plain is not None
    (packed,) = fitting(model, int(7.9 * elements))
    assert packed.arguments["optim_args"] == "master_weights=24bit,state_dtype=int8"
    # weights and gradients in bf16, a remainder, two moments and their scales, beside the batch
    total = packed.footprint.total
    assert total is not None and total < plain
    assert total - packed.footprint.batch == pytest.approx((2 + 2 + 1 + 2 * (1 + 4 / 32)) * elements, rel=0.01)
    (fused,) = fitting(model, int(6.5 * elements))
    assert fused.arguments["optim_args"] == "master_weights=24bit,state_dtype=int8,fused_backward=true"
    assert not [each for each in packed.advice if LOST in each]
    (elsewhere,) = fitting(model, 4 * elements)
    assert elsewhere.arguments["optim_args"] == f"{fused.arguments['optim_args']},offload=cpu"
    assert not fitting(model, 3 * elements)


def test_in_fp32_what_fits_stays_as_it_is() -> None:
    model = meta_model("llama-60m", "fp32")
    elements = sum(each.numel() for each in model.parameters())
    (plain,) = fitting(model, 17 * elements)
    assert "optim_args" not in plain.arguments or "state_dtype" not in str(plain.arguments["optim_args"])
    (packed,) = fitting(model, 11 * elements)
    assert "state_dtype=int8" in str(packed.arguments["optim_args"])


def test_the_settings_are_told() -> None:
    said = printed("info", "adamw_torch")
    for name in ("master_weights", "state_dtype", "offload", "offload_dir", "save_fp32"):
        assert name in said
    for value in ("24bit", "32bit", "stochastic", "kahan", "int8", "int4", "disk"):
        assert value in said


def test_the_plan_tells_the_bytes_by_part() -> None:
    args = {"learning_rate": 1e-3, "optim_args": "master_weights=24bit,state_dtype=int8,offload=disk"}
    planned = anyoptim.plan("adamw_torch", llama().bfloat16(), args)
    found = planned.footprint()
    elements = sum(each.numel() for each in llama().parameters())
    assert found.remainder == elements
    assert found.where == "disk" and 0 < found.elsewhere <= found.state
    assert found.total == found.weights + found.gradients + found.state - found.elsewhere + found.batch
    matrices = sum(each.numel() for each in llama().parameters() if each.dim() > 1)
    assert found.scales == 2 * 4 * matrices // 32
    assert "24bit" in str(planned) or "master_weights" in str(planned)
