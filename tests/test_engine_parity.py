"""Our engines against the upstream classes and against the papers, step by step, every hyperparameter varied."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engines import (
    ALGORITHMS,
    ENGINES,
    EVERYTHING,
    FUSED,
    ORTHOGONAL,
    RIVALS,
    SHAPES,
    STACKS,
    VALUES,
    Net,
    build,
    distance,
    last,
    run,
    settings_of,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from papers import Paper
from torch import Tensor

import anyoptim
import anyoptim.engines.apollo
import anyoptim.engines.arithmetic

STEPS = range(1, 201)
LENGTHS = pytest.mark.parametrize("steps", [range(1, 61), pytest.param(STEPS, marks=pytest.mark.slow)], ids=len)
CLOSE = 1e-5  # of fp32 runs; 200 roundings of a weight alone may add up to as much


@pytest.fixture(scope="module", autouse=True)
def upstream_on_this_machine() -> Any:
    """AdaLomo asks for CUDA; APOLLO renews its projections by seeds of its own, here by ours."""
    import apollo_torch.random_projector

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "cuda", lambda self: self)
        patch.setattr(apollo_torch.random_projector, "next_seed", lambda seed: seed + 1_000_003)
        yield


@LENGTHS
@pytest.mark.usefixtures("multiplied_as_by_torch")
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name in RIVALS])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_many_steps_of_upstream(name: str, steps: range, data: st.DataObject) -> None:
    drawn = {**data.draw(settings_of(name)), "optim_bits": 32, "orthogonalize": "newton_schulz"}
    if drawn.get("scale_type") == "channel":
        drawn["proj_type"] = "std"  # upstream fails on the others
    if drawn.get("grokking_signal_fns") == []:
        drawn["grokking_signal_fns"] = None  # upstream passes None on to a product
    if drawn.get("proj_type") == "full" and isinstance(drawn["eps"], float):
        drawn["eps"] = 1.0  # off the diagonal it finds rounding errors, which a small one would make steps of
    shapes = {key: shape for key, shape in SHAPES.items() if key != "empty" or name not in FUSED}
    pause = 0 if name == "adalomo" else 7  # upstream counts AdaLomo's steps for all parameters at once
    theirs, ours = Net(shapes, pause), Net(shapes, pause)
    states = zip(
        run(theirs, build(name, theirs, "upstream", **drawn), steps),
        run(ours, build(name, ours, **drawn), steps),
        strict=True,
    )
    for step, (expected, actual) in enumerate(states, start=1):
        assert distance(actual, expected) <= CLOSE, step


@LENGTHS
@pytest.mark.parametrize("name", ALGORITHMS)
@settings(max_examples=15)
@given(data=st.data())
def test_many_steps_of_the_paper(name: str, steps: range, data: st.DataObject) -> None:
    follows_the_paper(name, EVERYTHING, steps, data.draw(settings_of(name)))


@pytest.mark.parametrize("name", ENGINES)
def test_a_parameter_larger_than_the_cache(name: str) -> None:
    """It is worked on in pieces."""
    shapes = {"large": (700, 600), "long": (600, 700), "flat": (300_000,), "small": (3, 2)}
    if name in ORTHOGONAL:  # its products take time
        shapes |= {"large": (420, 330), "long": (330, 420)}
    spec = anyoptim.optimizer_info(name)
    defaults = {each.name: each.default for each in spec.hyperparameters}
    follows_the_paper(name, shapes, range(1, 4), {**defaults, "rank": 2, "weight_decay": 0.1})


@pytest.mark.parametrize("name", ENGINES)
def test_the_calls_that_an_accelerator_gets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pieces, whole groups at once: here on the CPU."""
    for module in (anyoptim.engines.arithmetic, anyoptim.engines.apollo):
        monkeypatch.setattr(module, "cached", lambda tensor: False)
    defaults = {each.name: each.default for each in anyoptim.optimizer_info(name).hyperparameters}
    follows_the_paper(name, EVERYTHING, range(1, 31), {**defaults, "rank": 2, "weight_decay": 0.1})


def follows_the_paper(name: str, shapes: dict[str, tuple[int, ...]], steps: range, given: dict[str, Any]) -> None:
    model = Net(shapes, dtype=torch.float64)
    optimizer = build(name, model, **given)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = {id(parameter): place for place, parameter in enumerate(held, start=1)}
    seeds = {key: places[id(parameter)] for key, parameter in model.named_parameters()}
    paper = Paper(name, dict(model.named_parameters()), seeds, given)
    for step, actual in enumerate(run(model, optimizer, steps), start=1):
        expected = paper.step(step)
        rounded = {key for key in STACKS if name in ORTHOGONAL}  # some CPUs' batched products in bf16
        for keys, bound in ((expected.keys() - rounded, 1e-9), (rounded & expected.keys(), 1e-2)):
            assert distance(actual, {key: expected[key] for key in keys}) <= bound, step


def clips_in_two_passes(name: str) -> bool:
    """Whether upstream does, too."""
    given = [one.name for each in anyoptim.optimizer_info(name).implementations for one in each.hyperparameters]
    return "clip_grad_norm" in given


@LENGTHS
@pytest.mark.parametrize("name", [name for name in FUSED if clips_in_two_passes(name)])
@settings(max_examples=8)
@given(max_norm=st.floats(0.1, 30.0), clip_grad_value=VALUES["clip_grad_value"])
def test_clipping_by_norm_in_two_passes(
    name: str, steps: range, max_norm: float, clip_grad_value: float | None
) -> None:
    shapes = {key: shape for key, shape in SHAPES.items() if key != "empty"}
    theirs, ours = Net(shapes), Net(shapes)
    given = {"lr": 0.01, "weight_decay": 0.1, "clip_grad_value": clip_grad_value}
    states = zip(
        run(theirs, build(name, theirs, "upstream", clip_grad_norm=max_norm, **given), steps, max_norm),
        run(ours, build(name, ours, **given), steps, max_norm),
        strict=True,
    )
    for step, (expected, actual) in enumerate(states, start=1):
        assert distance(actual, expected) <= CLOSE, step


def test_the_clipped_norm_is_the_one_asked_for() -> None:
    """Against torch's own clip_grad_norm_ and plain SGD."""
    reference, model = Net(SHAPES), Net(SHAPES)
    reference(1).backward()
    total = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
    torch.optim.SGD(reference.parameters(), lr=1.0).step()
    optimizer = build("lomo", model, lr=1.0)
    loss = model(1)
    torch.testing.assert_close(optimizer.clip_grad_norm(loss, 0.5), total)
    loss.backward()
    expected = {name: each.detach() for name, each in reference.named_parameters()}
    assert distance({name: each.detach() for name, each in model.named_parameters()}, expected) <= CLOSE


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", RIVALS)
def test_bad_gradients_spoil_the_elements_that_upstream_spoils(name: str, bad: float) -> None:
    shapes = {"tall": (12, 8), "wide": (6, 10), "vector": (5,)}
    theirs, ours = Net(shapes), Net(shapes)
    optimizers = build(name, theirs, "upstream"), build(name, ours)
    for model, optimizer in zip((theirs, ours), optimizers, strict=True):
        last(model, optimizer, range(1, 2))  # a projection by svd cannot begin with a bad gradient in upstream
        for parameter in (model.tall, model.vector):
            parameter.register_hook(lambda gradient: gradient.index_fill(-1, torch.tensor([1]), bad))
    expected, actual = (
        last(model, optimizer, range(2, 4)) for model, optimizer in zip((theirs, ours), optimizers, strict=True)
    )
    for key, value in expected.items():
        assert torch.equal(actual[key].isfinite(), value.isfinite()), key
    assert not actual["tall"].isfinite().all() and actual["wide"].isfinite().all()
