"""Weights and state packed between steps: what steps in fp32 is the very optimizer."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from halves import assert_same, built, half_and_copy, low_model, plain_state, stepped, watch_steps, wide
from toys import skip_unless_installed

from anyoptim.engines.composite import inside
from anyoptim.engines.stored import Stored

NAMES = [
    *("adamw_torch", "muon", "apollo_adamw", "schedule_free_adamw", "lookahead(adamw_torch)", "adalomo", "sgd"),
    *("pytorch_optimizer/soap", "timm/adopt", "pytorch_optimizer/lamb", "muon+lion"),
]
BY_ROWS = ["adamw_torch", "schedule_free_adamw", "timm/adopt", "sgd", "apollo_adamw", "galore_adamw", "lomo"]
"""Low-rank optimizers step whole on matrices that they project, by rows on what they do not."""
STEPS = 200


def as_a_copy_in_fp32(name: str, steps: int = STEPS) -> Any:
    skip_unless_installed(name)
    (low, stored), (copied, plain) = half_and_copy(name, "master_weights=32bit")
    before = {key: value.clone() for key, value in copied.state_dict().items()}
    for start in range(0, steps, steps // 4):
        following = range(start, start + steps // 4)
        stepped(low, stored, following)
        stepped(copied, plain, following)
        assert_same(wide(low, stored), dict(copied.state_dict()))
        assert all(each.dtype == torch.bfloat16 for each in low.parameters())
    assert any(not torch.equal(before[key], value) for key, value in copied.state_dict().items())
    return stored


@pytest.mark.parametrize("name", NAMES)
def test_32_bits_are_a_copy_in_fp32(name: str) -> None:
    as_a_copy_in_fp32(name, steps=40)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_32_bits_are_a_copy_in_fp32_for_long(name: str) -> None:
    as_a_copy_in_fp32(name)


@pytest.mark.parametrize("name", NAMES)
def test_so_are_batches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few parameters at once, or one; those that can, some rows of it."""
    monkeypatch.setattr("anyoptim.building.storing.BATCH_BYTES", 32 * 300)
    as_a_copy_in_fp32(name, steps=12)


@pytest.mark.parametrize("name", BY_ROWS)
def test_so_are_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyoptim.engines.stored_batches.CACHED", 100)
    seen: list[tuple[int, int]] = []
    watch_steps(monkeypatch, lambda stand_ins: seen.extend((index, each.numel()) for index, each, _ in stand_ins))
    (stored,) = inside(as_a_copy_in_fp32(name, steps=12), Stored)
    whole = {index for index, group in enumerate(stored.param_groups) if "rank" in group}
    assert whole == {index for index, group in enumerate(stored.param_groups) if not stored.by_rows(group)}
    largest_row = 64
    assert max(size for index, size in seen if index not in whole) <= max(100, largest_row)


@pytest.mark.parametrize("name", ["adamw_torch", "muon", "sgd"])
def test_rows_and_batches_are_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to hold weights and state comes out the same however much is stepped on at once; only noise is cut."""
    for master, state in [("24bit", "int8"), ("kahan", "int4"), ("32bit", "bf16"), ("own", "int8")]:
        found = []
        for cached, bound in ((2**18, 2**26), (100, 2**26), (2**18, 32 * 300)):
            monkeypatch.setattr("anyoptim.engines.stored_batches.CACHED", cached)
            monkeypatch.setattr("anyoptim.building.storing.BATCH_BYTES", bound)
            model = low_model(name)
            optimizer = built(name, model, f"master_weights={master},state_dtype={state}")
            stepped(model, optimizer, range(3))
            found.append({**wide(model, optimizer), **plain_state(optimizer)})
        assert_same(found[0], found[1])
        assert_same(found[0], found[2])


@pytest.mark.parametrize("name", ["adamw_torch", "muon", "schedule_free_adamw"])
def test_fp16_has_32_bits_too(name: str) -> None:
    """Equal to the last bit where fp16 is normal, to 2**-37 below."""
    (low, stored), (copied, plain) = half_and_copy(name, "master_weights=32bit", torch.float16)
    for step in range(40):
        stepped(low, stored, range(step, step + 1))
        stepped(copied, plain, range(step, step + 1))
    found, expected = wide(low, stored), dict(copied.state_dict())
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=1e-4, atol=40 * 2.0**-36)
    assert any(not torch.equal(low.get_parameter(key).float(), value) for key, value in found.items())


@pytest.mark.parametrize(("master", "state"), [("24bit", "int8"), ("kahan", "bf16"), ("stochastic", "int8")])
@pytest.mark.parametrize("name", ["adamw_torch", "muon", "pytorch_optimizer/lamb"])
def test_other_settings_stay_near(name: str, master: str, state: str) -> None:
    (low, stored), (copied, plain) = half_and_copy(name, f"master_weights={master},state_dtype={state}")
    start = {key: value.clone() for key, value in copied.state_dict().items()}
    stepped(low, stored, range(40))
    stepped(copied, plain, range(40))
    found = wide(low, stored)
    # half of what the run moved, and what 16 bits cannot tell
    for key, value in copied.state_dict().items():
        moved, off = (value - start[key]).norm(), (found[key] - value).norm()
        assert off <= 0.5 * moved + 2.0**-7 * value.norm(), key


@pytest.mark.parametrize("name", [*NAMES, "heavyball/adamw"])
def test_what_a_step_unpacks_is_given_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by optimizers that keep notes of parameters outside of their state."""
    skip_unless_installed(name)
    model = low_model(name)
    optimizer = built(name, model, "master_weights=24bit,state_dtype=int8")
    seen: list[weakref.ref[torch.Tensor]] = []
    watch_steps(monkeypatch, lambda stand_ins: seen.extend(weakref.ref(each) for _, each, _ in stand_ins))
    stepped(model, optimizer, range(3))
    gc.collect()
    assert seen
    assert not [each for each in seen if each() is not None]
