"""What APOLLO promises of its state, its projections and its passes over memory."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from engines import MATRICES, STACKS, Net, build, distance, gradients, last
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from toys import weights
from transformers import LlamaForCausalLM

import anyoptim
from anyoptim.engines.apollo import APOLLOAdamW, random_projection
from anyoptim.integrations.models import load_config
from anyoptim.memory.state import measured_state_bytes

STEPS = range(1, 13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_is_two_low_rank_moments_a_seed_and_a_norm(dtype: torch.dtype) -> None:
    shapes = {**MATRICES, **STACKS}
    model = Net(shapes, dtype=dtype)
    optimizer = build("apollo_adamw", model, rank=2)
    last(model, optimizer, STEPS)
    expected = 0
    for shape in shapes.values():
        matrices = shape[0] if len(shape) == 3 else 1
        expected += matrices * (2 * 2 * max(shape[-2:]) * dtype.itemsize + torch.float32.itemsize)
    assert measured_state_bytes(optimizer) == expected
    for state in optimizer.state.values():
        assert set(state) == {"step", "seed", "exp_avg", "exp_avg_sq", "update_norm"}


@pytest.mark.parametrize(("name", "published"), [("apollo_adamw", "1.6"), ("apollo_mini", "0.0")])
def test_the_matrices_of_a_7b_take_what_the_paper_says(name: str, published: str) -> None:
    config = load_config("llama-7b")
    config.num_hidden_layers = 1
    with torch.device("meta"):
        layer = LlamaForCausalLM(config).to(torch.bfloat16).model.layers
    targets = ["attn", "mlp"]
    layer[0].input_layernorm.requires_grad_(False)
    layer[0].post_attention_layernorm.requires_grad_(False)
    plan = anyoptim.plan(name, layer, lr=1e-3, optim_target_modules=targets)
    assert f"{plan.state_bytes * 32 / 1e9:.1f}" == published


def test_the_projection_is_upstreams_until_the_first_renewal() -> None:
    from apollo_torch.random_projector import GradientProjector

    model = Net(MATRICES)
    optimizer = build("apollo_adamw", model, keep_projection=True)
    last(model, optimizer, range(1, 3))
    for place, parameter in enumerate(model.parameters(), start=1):
        theirs = GradientProjector(2, seed=place)
        theirs.project(parameter.detach(), 0)
        assert torch.equal(optimizer.state[parameter]["projection"], theirs.ortho_matrix)


@pytest.mark.parametrize("gap", [1, 5, 200])
def test_a_projection_made_anew_is_the_one_kept(gap: int) -> None:
    results = []
    for keep in (False, True):
        model = Net({**MATRICES, **STACKS})
        results.append(last(model, build("apollo_adamw", model, keep_projection=keep, update_proj_gap=gap), STEPS))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_projections_differ_between_matrices_and_renewals() -> None:
    model = nn.ParameterDict({name: torch.ones(6, 4) for name in "abc"})
    optimizer = build("apollo_adamw", model, keep_projection=True, update_proj_gap=3)
    seen: set[tuple[float, ...]] = set()
    for _ in range(7):
        for parameter in model.values():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        seen |= {tuple(optimizer.state[each]["projection"].flatten().tolist()) for each in model.values()}
    assert len(seen) == 3 * 3


def test_the_variance_of_a_projection_is_one_over_its_rank() -> None:
    drawn = random_projection(torch.empty(3, 500, 400), 8, "right", seed=1)
    assert drawn.shape == (3, 8, 400)
    assert drawn.var().item() == pytest.approx(1 / 8, rel=0.05)
    assert random_projection(torch.empty(500, 400), 8, "left", seed=1).shape == (500, 8)


@pytest.mark.parametrize("scale_type", ["channel", "tensor"])
def test_a_stack_is_that_many_matrices(scale_type: str) -> None:
    """By svd, which needs no seed: a stack and its matrices would draw different ones."""
    given: dict[str, Any] = {"proj": "svd", "scale_type": scale_type, "weight_decay": 0.1, "update_proj_gap": 4}
    stacked = Net({"stack": (3, 6, 4)})
    alone = nn.ParameterList([each.clone() for each in stacked.stack.detach()])
    optimizer = build("apollo_adamw", alone, **given)
    for step in STEPS:
        for parameter, gradient in zip(alone, gradients({"stack": (3, 6, 4)}, step)["stack"], strict=True):
            parameter.grad = gradient
        optimizer.step()
    together = last(stacked, build("apollo_adamw", stacked, **given), STEPS)
    assert distance({"stack": torch.stack([each.detach() for each in alone])}, together) < 1e-6


@pytest.mark.parametrize("quiet", [0, 2])
def test_a_gradient_of_zeros_does_not_freeze_a_matrix(quiet: int) -> None:
    """As of an expert without tokens, or LoRA's A beside B = 0: a limiter that took it for the norm would."""
    stack = nn.Parameter(torch.randn((2, 6, 4), generator=torch.Generator().manual_seed(0)))
    optimizer = APOLLOAdamW([{"params": [stack], "rank": 2}], lr=0.01)
    moved = []
    for step in range(5):
        stack.grad = gradients({"stack": (2, 6, 4)}, step)["stack"]
        if step == quiet:
            stack.grad[1] = 0
        before = stack.detach().clone()
        optimizer.step()
        moved.append((stack - before)[1].norm().item())
    assert moved[quiet] == 0
    assert moved[quiet + 1] > 1e-3


class Counted(TorchDispatchMode):
    """Count calls, and the reads and writes of tensors of at least ``size`` elements."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.calls = 0
        self.passes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        reads, writes = set(), set()
        for argument, value in zip(func._schema.arguments, args, strict=False):
            for each in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(each, torch.Tensor) and each.numel() >= self.size and not func.is_view:
                    reads.add(each.data_ptr())
                    if argument.alias_info and argument.alias_info.is_write:
                        writes.add(each.data_ptr())
        self.passes[str(func)] += len(reads) + len(writes)
        return func(*args, **(kwargs or {}))


def stepped(shape: tuple[int, ...], **given: Any) -> Counted:
    parameter = nn.Parameter(torch.ones(shape))
    optimizer = APOLLOAdamW([{"params": [parameter], "rank": 2}], **given)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with Counted(parameter.numel()) as counted:
        optimizer.step()
    return counted


def test_the_docstring_counts_the_passes() -> None:
    plain, decaying = stepped((64, 32)), stepped((64, 32), weight_decay=0.1)
    assert sum(plain.passes.values()) == 5, plain.passes
    assert sum(decaying.passes.values()) == 5 + 2, decaying.passes


def test_the_matrices_of_a_stack_share_their_calls() -> None:
    assert stepped((2, 16, 8)).calls == stepped((32, 16, 8)).calls


def test_a_vector_has_no_rank() -> None:
    model = Net({"tall": (12, 8), "vector": (5,)})
    before = weights(model)
    with pytest.raises(ValueError, match=r"shape \(5,\) is no matrix"):
        APOLLOAdamW([{"params": list(model.parameters()), "rank": 2}])
    assert torch.equal(model.tall, before["tall"])
