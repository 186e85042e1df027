"""What every engine of ours owes, whatever it computes."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from engines import (
    ALGORITHMS,
    ENGINES,
    EVERYTHING,
    FUSED,
    MATRICES,
    ORTHOGONAL,
    RIVALS,
    Net,
    build,
    distance,
    last,
    run,
    settings_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor, Shard, init_device_mesh
from torch.distributed.tensor.placement_types import _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore
from toys import llama, needs_of, plain_steps, weights

import anyoptim
from anyoptim.engines.apollo import APOLLOAdamW
from anyoptim.engines.composite import CompositeOptimizer
from anyoptim.engines.distributed import part
from anyoptim.engines.fused_backward import FusedBackward
from anyoptim.engines.galore import GaLoreAdafactor, GaLoreAdamW
from anyoptim.engines.grokadamw import GrokAdamW
from anyoptim.engines.muon import Muon

LOW_RANK = [
    name for name in ENGINES if any(each.name == "rank" for each in anyoptim.optimizer_info(name).hyperparameters)
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def built_engine(optimizer: Any) -> Any:
    """Our engine inside the facade, inside a hybrid the one of the matrices."""
    if isinstance(optimizer, FusedBackward):
        optimizer = optimizer.optimizer
    return list(optimizer.optimizers.values())[-1] if isinstance(optimizer, CompositeOptimizer) else optimizer


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALGORITHMS)
@settings(max_examples=15)
@given(data=st.data())
def test_resume_at_any_step_is_bit_equal(name: str, dtype: torch.dtype, data: st.DataObject) -> None:
    drawn = data.draw(settings_of(name))
    stop, end = data.draw(st.integers(1, 11)), 12
    straight, first = (model := Net(EVERYTHING, pause=3, dtype=dtype)), build(name, model, **drawn)
    expected = list(run(straight, first, range(1, end + 1)))
    stopped = Net(EVERYTHING, pause=3, dtype=dtype)
    optimizer = build(name, stopped, **drawn)
    last(stopped, optimizer, range(1, stop + 1))
    state = saved_and_loaded({"model": stopped.state_dict(), "optimizer": optimizer.state_dict()})
    resumed = Net(EVERYTHING, pause=3, dtype=dtype)
    resumed.load_state_dict(state["model"])
    second = build(name, resumed, **drawn)
    second.load_state_dict(state["optimizer"])
    for step, weights_of_step in enumerate(run(resumed, second, range(stop + 1, end + 1)), start=stop):
        for key, value in weights_of_step.items():
            torch.testing.assert_close(value, expected[step][key], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in RIVALS if name in LOW_RANK or name == "grokadamw"])
def test_upstreams_state_is_refused(name: str) -> None:
    theirs, ours = Net(MATRICES), Net(MATRICES)
    upstream, native = build(name, theirs, "upstream"), build(name, ours)
    last(theirs, upstream, range(1, 3))
    before = copy.deepcopy(native.state_dict())
    with pytest.raises(anyoptim.UnsupportedError, match="implementation=upstream"):
        native.load_state_dict(upstream.state_dict())
    assert native.state_dict() == before


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("name", ENGINES)
def test_half_precision_weights_follow_fp32(name: str, dtype: torch.dtype) -> None:
    """At a rate whose steps the dtype can show, 30 steps end near the fp32 run and far from the start."""
    reference, model = Net(EVERYTHING), Net(EVERYTHING, dtype=dtype)
    eps = {each.name: each.default for each in anyoptim.optimizer_info(name).hyperparameters}.get("eps")
    # a pair is no Adam's eps
    rates = {"adalomo": 0.05, "adamuon": 0.2}
    given = {"lr": rates.get(name, 0.02), **({} if isinstance(eps, tuple) else {"eps": 1e-4})}
    expected = last(reference, build(name, reference, **given), range(1, 31))
    actual = last(model, build(name, model, **given), range(1, 31))
    assert {each.dtype for each in actual.values()} == {dtype}
    # making a matrix orthogonal enlarges the rounding of its small singular values
    much = 2 if name in ORTHOGONAL else 8
    assert distance(actual, expected) < distance(weights(Net(EVERYTHING)), expected) / much


@pytest.mark.parametrize("name", ENGINES)
def test_dtypes_may_be_mixed_in_a_group(name: str) -> None:
    mixed, alike = Net(EVERYTHING), Net(EVERYTHING)
    mixed.one = nn.Parameter(mixed.one.detach().bfloat16())
    mixed.wide = nn.Parameter(mixed.wide.detach().bfloat16())
    actual, expected = (last(model, build(name, model), range(1, 6)) for model in (mixed, alike))
    assert actual["wide"].dtype == torch.bfloat16
    for key in expected.keys() - {"one", "wide"}:
        torch.testing.assert_close(actual[key], expected[key], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ENGINES)
def test_the_layout_of_a_parameter_changes_nothing(name: str) -> None:
    straight, odd = Net(MATRICES), Net(MATRICES)
    odd.tall = nn.Parameter(odd.tall.detach().t().contiguous().t())  # transposed
    spread = torch.zeros(6, 20)
    spread[:, ::2] = odd.wide.detach()
    odd.wide = nn.Parameter(spread[:, ::2])  # with gaps
    assert not odd.tall.is_contiguous() and not odd.wide.is_contiguous()
    steps = range(1, 31)
    expected, actual = last(straight, build(name, straight), steps), last(odd, build(name, odd), steps)
    assert distance(actual, expected) < 1e-6
    assert spread[:, 1::2].count_nonzero() == 0


@pytest.mark.parametrize("name", ENGINES)
def test_a_parameter_without_gradient_is_left_alone(name: str) -> None:
    model = Net(EVERYTHING, pause=2)
    model.square.requires_grad_(False)
    optimizer = build(name, model)
    previous = weights(model)
    for step, current in enumerate(run(model, optimizer, range(1, 9)), start=1):
        assert torch.equal(current["square"], previous["square"])
        assert torch.equal(current["vector"], previous["vector"]) == (step % 2 == 0)
        assert not torch.equal(current["tall"], previous["tall"])
        previous = current
    assert model.square not in optimizer.state
    assert optimizer.state[model.tall] or name == "lomo"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ENGINES)
def test_bad_gradients_spoil_what_they_touch_and_nothing_else(name: str, bad: float) -> None:
    """As with torch.optim: no exception, no repair, and the other parameters train on."""
    clean, model = Net(EVERYTHING), Net(EVERYTHING)
    healthy, optimizer = build(name, clean), build(name, model)

    def spoiled(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient.view(-1)[0] = bad
        return gradient

    last(clean, healthy, range(1, 4))
    last(model, optimizer, range(1, 3))
    hooks = [each.register_hook(spoiled) for each in (model.tall, model.vector)]
    last(model, optimizer, range(3, 4))
    for hook in hooks:
        hook.remove()
    expected, actual = last(clean, healthy, range(4, 6)), last(model, optimizer, range(4, 6))
    for key, value in actual.items():
        if key not in ("tall", "vector"):
            assert torch.equal(value, expected[key]), key
        else:
            assert not torch.equal(value, expected[key]), key
    assert not actual["tall"].isfinite().all()
    steps = {int(state["step"]) for state in optimizer.state.values() if "step" in state}
    assert steps <= {5}


@pytest.mark.parametrize("name", ENGINES)
def test_sparse_gradients_are_refused_by_name(name: str) -> None:
    embedding = nn.Embedding(4, 2, sparse=True)
    before = embedding.weight.detach().clone()
    optimizer = build(name, embedding)
    with pytest.raises(
        RuntimeError, match=f"{type(built_engine(optimizer)).__name__} does not support sparse gradients"
    ):
        embedding(torch.tensor([1])).sum().backward()
        optimizer.step()
    assert torch.equal(embedding.weight, before)
    assert not optimizer.state


@pytest.mark.parametrize("name", ENGINES)
def test_a_step_never_asks_for_a_value(name: str) -> None:
    """Fake tensors have none: reading one, which would make a GPU wait, raises."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = nn.ParameterDict({key: torch.empty(shape) for key, shape in EVERYTHING.items() if shape != (0,)})
        optimizer = build(name, model, update_proj_gap=2)
        for _ in range(4):
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()


@pytest.mark.parametrize("name", ENGINES)
def test_state_is_tensors_and_plain_values_on_the_parameters_device(name: str) -> None:
    model = Net(EVERYTHING)
    optimizer = build(name, model)
    assert not optimizer.state
    last(model, optimizer, range(1, 3))
    for group in optimizer.param_groups:
        assert "state" not in group
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            assert isinstance(value, (torch.Tensor, int, float)), key
            assert not isinstance(value, torch.Tensor) or value.device == parameter.device


@pytest.mark.parametrize("name", ENGINES)
def test_a_compiled_model_trains_as_the_plain_one(name: str) -> None:
    needs = needs_of(name)
    plain, inside = llama(), llama()
    compiled = torch.compile(inside, backend="aot_eager")
    for model in (plain, compiled):
        given = {key: needs[key] for key in ("optim_args", "optim_target_modules")}
        plain_steps(model, anyoptim.get_optimizer(name, model, lr=1e-3, **given), count=5)
    for key, value in weights(inside).items():
        torch.testing.assert_close(value, weights(plain)[key], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ENGINES)
def test_a_closure_is_called_with_gradients(name: str) -> None:
    model = Net(MATRICES)
    optimizer = build(name, model)

    def closure() -> float:
        loss = model(1)
        loss.backward()
        return loss.item()

    before = weights(model)
    assert optimizer.step(closure) == pytest.approx(Net(MATRICES)(1).item())
    assert not torch.equal(model.tall, before["tall"])


@pytest.mark.parametrize("name", [name for name in ENGINES if name not in FUSED])
def test_groups_added_later_train(name: str) -> None:
    model = Net(MATRICES)
    optimizer = build(name, nn.ParameterDict({"tall": model.tall}))
    last(model, optimizer, range(1, 2))
    optimizer.add_param_group(
        {
            "params": [model.wide],
            **({"rank": 1} if name in LOW_RANK else {"optimizer": name} if name in ORTHOGONAL else {}),
        }
    )
    before = weights(model)
    after = last(model, optimizer, range(2, 4))
    assert not torch.equal(after["wide"], before["wide"])
    assert torch.equal(after["square"], before["square"])


@pytest.fixture
def second_of(request: pytest.FixtureRequest) -> Any:
    """The second of several processes, of which there is no other."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=1, world_size=request.param)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("second_of")
@pytest.mark.parametrize("second_of", [2], indirect=True)
def test_a_part_is_what_belongs_to_this_process() -> None:
    mesh = init_device_mesh("cpu", (2,))
    left, right = torch.arange(12.0).view(4, 3), torch.arange(18.0).view(3, 6)
    for dim, first, second in ((0, left[2:], right), (1, left, right[:, 3:])):
        shape = (2, 6) if dim == 0 else (4, 3)
        weight = DTensor.from_local(torch.zeros(shape), mesh, [Shard(dim)], run_check=False)
        assert torch.equal(part(left @ right, weight), (left @ right).chunk(2, dim)[1])
        # of two factors, the side that the other one shares stays whole
        assert torch.equal(part(left, weight, -1), first)
        assert torch.equal(part(right, weight, -2), second)


@pytest.mark.usefixtures("second_of")
@pytest.mark.parametrize("second_of", [4], indirect=True)
def test_a_part_of_what_is_split_twice() -> None:
    """Rows that FSDP2 splits once more after tensor parallelism: of four, the second process has the third."""
    mesh = init_device_mesh("cpu", (2, 2))
    left, right = torch.arange(12.0).view(4, 3), torch.arange(18.0).view(3, 6)
    whole, twice = left @ right, [_StridedShard(0, split_factor=2), Shard(0)]
    piece = torch.zeros(1, 6)
    weight = DTensor.from_local(piece, mesh, twice, run_check=False, shape=whole.shape, stride=whole.stride())
    assert torch.equal(part(whole, weight), whole[2:3])
    assert torch.equal(part(left, weight, -1), left[2:3])
    assert torch.equal(part(right, weight, -2), right)


def test_adalomo_takes_the_size_of_a_complex_gradient() -> None:
    """|g|^2, so a direction in the plane counts as it does for torch's own."""
    turned = []
    for turn in (1, 1j):
        model = torch.nn.Module()
        model.w = torch.nn.Parameter(torch.tensor([1 + 0j]) * turn)
        optimizer = anyoptim.get_optimizer("adalomo", model, lr=0.1)
        model.w.grad = torch.tensor([1j]) * turn
        optimizer.step()
        turned.append(model.w.detach() / turn)
    torch.testing.assert_close(turned[0], turned[1])
    torch.testing.assert_close(turned[0], torch.tensor([1 - 0.1j]))


@pytest.mark.parametrize("engine", [GrokAdamW, APOLLOAdamW, GaLoreAdamW, GaLoreAdafactor, Muon])
def test_complex_parameters_are_refused_where_the_method_is_for_real_ones(engine: Any) -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    parameter.grad = torch.ones_like(parameter)
    with pytest.raises(anyoptim.UnsupportedError, match="is complex; leave it out of the target modules"):
        engine([parameter]).step()
