"""NorMuon and AdaMuon against pytorch_optimizer's classes, step by step, where these follow the paper and where not."""

from __future__ import annotations

from typing import Any

import pytest
from engines import Net, run
from toys import llama, weights

import anyoptim
from anyoptim.engines.adamuon import AdaMuon
from anyoptim.engines.normuon import NorMuon

SHAPES = {"wide": (6, 10), "square": (5, 5), "wider": (4, 30)}
STEPS = range(1, 21)
pytestmark = pytest.mark.usefixtures("multiplied_as_by_torch")


def farthest(engine: Any, theirs: Any, ours: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of weights after any step, in units of how far they have come."""
    left, right, worst = Net(SHAPES), Net(SHAPES), 0.0
    start = weights(left)
    common = {"lr": 0.02, "weight_decay": 0.1, "eps": 1e-8}
    upstream = theirs([{"params": list(right.parameters()), "use_muon": True}], **common, **other, foreach=False)
    for actual, expected in zip(
        run(left, engine(left.parameters(), **common, **ours), STEPS), run(right, upstream, STEPS), strict=True
    ):
        for key, value in expected.items():
            worst = max(worst, float((actual[key] - value).norm() / (value - start[key]).norm()))
    return worst


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize(("ours", "theirs"), [("original", "preserve_norm"), ("match_rms_adamw", "match_rms")])
def test_normuon_is_theirs(ours: str, theirs: str, nesterov: bool) -> None:
    from pytorch_optimizer import NorMuon as Theirs

    given: dict[str, Any] = {"momentum": 0.9, "beta2": 0.8, "nesterov": nesterov}
    far = farthest(NorMuon, Theirs, {**given, "adjust_lr_fn": ours}, {**given, "update_scale": theirs})
    assert far < 1e-5


@pytest.mark.parametrize("adjusted", [True, False])
def test_adamuon_without_signs_is_theirs(adjusted: bool) -> None:
    """But for their rounding to bf16 after each division."""
    from pytorch_optimizer import AdaMuon as Theirs

    given: dict[str, Any] = {"betas": (0.9, 0.8)}
    ours = {**given, "adjust_lr_fn": "match_rms_adamw" if adjusted else "original"}
    assert farthest(AdaMuon, Theirs, {**ours, "sign": False}, {**given, "use_adjusted_lr": adjusted}) < 5e-3
    # the paper's signs, which theirs does not take
    assert farthest(AdaMuon, Theirs, {**ours, "sign": True}, {**given, "use_adjusted_lr": adjusted}) > 0.1


@pytest.mark.parametrize("name", ["normuon", "adamuon"])
def test_the_bare_name_is_our_engine_and_the_prefixed_one_theirs(name: str) -> None:
    ours, theirs = anyoptim.optimizer_info(name), anyoptim.optimizer_info(f"pytorch_optimizer/{name}")
    assert (ours.package, theirs.package) == ("anyoptim", "pytorch_optimizer")
    assert ours.fallback is not None and ours.fallback.name == "adamw_torch"


def test_coefficients_that_have_no_effect_are_said() -> None:
    planned = anyoptim.plan(
        "muon", llama(), optim_args="orthogonalize=polar_express,ns_coefficients=(2,-1.5,0.5)", lr=0.02
    )
    assert any("ns_coefficients has no effect" in each for each in planned.advice)
    planned = anyoptim.plan("muon", llama(), optim_args="orthogonalize=gram,ns_coefficients=(2,-1.5,0.5)", lr=0.02)
    assert not any("ns_coefficients" in each for each in planned.advice)
