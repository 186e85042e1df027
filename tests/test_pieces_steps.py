"""Steps on weights that consist of several matrices: as torch's Muon steps on each of these."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from architectures import small
from hypothesis import given
from hypothesis import strategies as st
from ranks import started
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import anyoptim
from anyoptim.engines.muon import Muon
from anyoptim.engines.owned import Owned
from anyoptim.engines.pieces import cut, join, shapes

# torch multiplies one matrix at a time, in bf16
pytestmark = pytest.mark.usefixtures("multiplied_as_by_torch")

SETTINGS = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9}


@st.composite
def splits(draw: st.DrawFn) -> tuple[Tensor, dict[str, Any]]:
    """A weight of numbers that are all different, and a group that cuts it."""
    dim = draw(st.sampled_from([-2, -1]))
    repeats = draw(st.integers(1, 4))
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=5)))
    shape = [draw(st.integers(1, 6)), draw(st.integers(1, 6))]
    shape[dim] = repeats * sum(sizes)
    stack = draw(st.lists(st.integers(1, 3), max_size=1))
    weight = torch.arange(math.prod([*stack, *shape])).view(*stack, *shape)
    return weight, {"split": {"dim": dim, "repeats": repeats, "sizes": sizes}}


@given(splits())
def test_what_is_cut_is_joined(drawn: tuple[Tensor, dict[str, Any]]) -> None:
    weight, group = drawn
    pieces = cut(weight, group)
    assert torch.equal(join(pieces, group, weight.shape), weight)
    assert all(piece.is_contiguous() for piece in pieces)
    assert [tuple(piece.shape) for piece in pieces] == shapes(weight.shape, group)
    assert sorted(torch.cat([piece.flatten() for piece in pieces]).tolist()) == weight.flatten().tolist()


@given(splits())
def test_pieces_are_the_rows_that_their_order_says(drawn: tuple[Tensor, dict[str, Any]]) -> None:
    weight, group = drawn
    dim, sizes = group["split"]["dim"], group["split"]["sizes"]
    period = sum(sizes)
    for place, piece in enumerate(cut(weight, group)):
        first = sum(sizes[:place])
        own = [row for row in range(weight.shape[dim]) if first <= row % period < first + sizes[place]]
        assert torch.equal(piece, weight.index_select(dim, torch.tensor(own)))


def stepped(weights: list[Tensor], gradients: list[list[Tensor]], **settings: Any) -> list[Tensor]:
    """Return matrices after steps of torch's Muon."""
    parameters = [nn.Parameter(each.clone()) for each in weights]
    optimizer = torch.optim.Muon(parameters, **settings)
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return [each.detach() for each in parameters]


MODELS = [
    ("GPT2LMHeadModel", {}, (1, 1)),
    ("GPTNeoXForCausalLM", {}, (1, 1)),
    ("Phi3ForCausalLM", {}, (2, 2)),
    ("FalconForCausalLM", {"multi_query": True, "new_decoder_architecture": False}, (1, 1)),
    ("FalconForCausalLM", {"multi_query": False, "new_decoder_architecture": False}, (1, 1)),
    ("FalconForCausalLM", {"new_decoder_architecture": True, "num_kv_heads": 2}, (1, 1)),
    ("CodeGenForCausalLM", {"rotary_dim": 8}, (1, 1)),
    ("LlamaForCausalLM", {}, (0, 2)),
]
"""With the numbers of groups of weights that are taken apart, without and with heads."""


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize(("name", "changed", "kinds"), MODELS, ids=str)
def test_a_step_is_torchs_on_every_piece(
    name: str, changed: dict[str, Any], kinds: tuple[int, int], heads: bool
) -> None:
    torch.manual_seed(0)
    model = small(name, **changed, num_hidden_layers=1)
    plan = anyoptim.plan("muon", model, heads=heads, **SETTINGS)
    optimizer = plan.build()
    group_of = {each: group for group in optimizer.param_groups for each in group["params"]}
    targets = [each.parameter for each in plan.routing.targets]
    gradients = [[torch.randn_like(each) for each in targets] for _ in range(3)]
    expected = []
    for place, each in enumerate(targets):
        group = group_of[each]
        pieces = cut(each.detach(), group)
        own = [cut(step[place], group) for step in gradients]
        expected.append(join(stepped(pieces, own, **SETTINGS), group, each.shape))
    for step in gradients:
        for parameter, gradient in zip(targets, step, strict=True):
            parameter.grad = gradient
        optimizer.step()
    for parameter, matrix in zip(targets, expected, strict=True):
        assert torch.equal(parameter.detach(), matrix)
    assert sum("split" in group for group in optimizer.param_groups) == kinds[heads]


def test_stacks_are_taken_apart_alike() -> None:
    """The gates and ups of gpt-oss alternate: each expert's are two matrices, against torch's Muon on all of them."""
    torch.manual_seed(0)
    model = small("GptOssForCausalLM", num_hidden_layers=1)
    optimizer = anyoptim.get_optimizer("muon", model, **SETTINGS)
    name, stack = next((name, each) for name, each in model.named_parameters() if name.endswith("gate_up_proj"))
    before, stack.grad = stack.detach().clone(), torch.randn_like(stack)
    optimizer.step()
    for expert, (weight, gradient) in enumerate(zip(before, stack.grad, strict=True)):
        for first in (0, 1):  # every other column
            (matrix,) = stepped([weight[:, first::2].contiguous()], [[gradient[:, first::2].contiguous()]], **SETTINGS)
            # a batched product in bf16 rounds otherwise
            torch.testing.assert_close(stack.detach()[expert, :, first::2], matrix, rtol=0, atol=1e-3, msg=name)


def test_pieces_of_unequal_factors_have_each_their_own() -> None:
    """With heads larger than the model, q has another factor than k and v: exact but for a rounding in float32."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(128, 32))
    group = {"params": [weight], "split": {"dim": -2, "repeats": 1, "sizes": (64, 32, 32)}}
    for adjust in ("original", "match_rms_adamw"):
        before, gradient = weight.detach().clone(), torch.randn_like(weight)
        expected = join(
            stepped(cut(before, group), [cut(gradient, group)], **SETTINGS, adjust_lr_fn=adjust), group, weight.shape
        )
        weight.grad = gradient
        Muon([{**group}], **SETTINGS, adjust_lr_fn=adjust).step()
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=1e-7)
        whole = stepped([before], [[gradient]], **SETTINGS, adjust_lr_fn=adjust)[0]
        assert not torch.allclose(whole, expected, atol=1e-3)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.grouped = nn.Conv1d(8, 12, 5, groups=4)
        self.up = nn.ConvTranspose2d(8, 6, 2)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3))
        self.linear = nn.Linear(8, 8)


def test_convolutions_are_flattened_on_request() -> None:
    torch.manual_seed(0)
    model = Convolutions()
    optimizer = anyoptim.get_optimizer("muon", model, convolutions="flatten", **SETTINGS)
    weights = [model.stem.weight, model.grouped.weight, model.up.weight]
    expected = []
    for each, groups in zip(weights, (1, 4, 1), strict=True):
        each.grad = torch.randn_like(each)
        matrices, gradients = ([*one.flatten(1).chunk(groups)] for one in (each.detach(), each.grad))
        expected.append(torch.cat(stepped(matrices, [gradients], **SETTINGS)).view(each.shape))
    optimizer.step()
    for each, matrix in zip(weights, expected, strict=True):
        assert torch.equal(each.detach(), matrix)


@pytest.mark.parametrize("name", ["muon", "normuon", "adamuon"])
def test_convolutions_are_no_targets_unless_asked_for(name: str) -> None:
    def targets(**given: Any) -> set[str]:
        plan = anyoptim.plan(name, Convolutions(), **given)
        return {each.name for each in plan.routing.targets}

    flat = {"convolutions": "flatten"}
    assert targets() == {"linear.weight"}
    assert targets(**flat) == {"linear.weight", "stem.weight", "grouped.weight", "up.weight"}
    assert targets(**flat, optim_target_modules="all-linear") == targets(**flat)
    assert targets(**flat, optim_target_modules=["stem", "linear"]) == {"linear.weight", "stem.weight"}
    plan = anyoptim.plan(name, Convolutions(), **flat)
    assert {each.name: each.pieces.label for each in plan.routing.targets if each.pieces} == {
        "stem.weight": "8 x 27",
        "grouped.weight": "4 groups of 3 x 10",
        "up.weight": "8 x 24",
    }


def _sharded() -> None:
    mesh = init_device_mesh("cpu", (2,))
    for group in ({"flatten": True}, {"split": {"dim": -2, "repeats": 1, "sizes": (6, 1, 1)}}, {}):
        for dim in (0, 1):
            torch.manual_seed(0)
            shape = (8, 6, 3, 3) if "flatten" in group else (8, 6)
            value, gradient = torch.randn(shape), torch.randn(shape)
            plain = nn.Parameter(value.clone())
            plain.grad = gradient
            sharded = nn.Parameter(distribute_tensor(value.clone(), mesh, [Shard(dim)]))
            sharded.grad = distribute_tensor(gradient, mesh, [Shard(dim)])
            for each in (plain, sharded):
                Owned(Muon([{"params": [each], **group}], **SETTINGS, adjust_lr_fn="match_rms_adamw")).step()
            assert torch.equal(sharded.full_tensor().detach(), plain.detach()), (group, dim)


def test_shards_step_as_the_whole() -> None:
    """Pieces that lie across two ranks, and a convolution."""
    assert started({"pieces": _sharded}, 2) == {"pieces": ["", ""]}


@pytest.mark.parametrize(
    ("shape", "group", "message"),
    [
        (
            (8, 4),
            {"split": {"dim": -2, "repeats": 1, "sizes": (4, 5)}},
            r"\(8, 4\) cannot be cut into 1 times \[4, 5\]",
        ),
        ((8, 4), {"split": {"dim": 0, "repeats": 1, "sizes": (8,)}}, "cannot be cut"),
        ((8, 4), {"split": {"dim": -2, "repeats": 1, "sizes": (8, 0)}}, "cannot be cut"),
        ((8, 4, 3, 3), {}, "is no matrix"),
        ((8,), {"flatten": True}, "is no matrix"),
    ],
)
def test_what_cannot_be_cut_is_refused(shape: tuple[int, ...], group: dict[str, Any], message: str) -> None:
    optimizer = Muon([nn.Parameter(torch.zeros(4, 4))])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(shape))], **group})
    assert len(optimizer.param_groups) == 1


def test_a_checkpoint_keeps_the_split(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = small("GPT2LMHeadModel", num_hidden_layers=1)
    optimizer = anyoptim.get_optimizer("muon", model, **SETTINGS)
    for each in model.parameters():
        each.grad = torch.randn_like(each)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other = anyoptim.get_optimizer("muon", model, **SETTINGS)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [group.get("split") for group in other.param_groups] == [
        group.get("split") for group in optimizer.param_groups
    ]
