"""What GaLore promises of its state and its projections, at 32 and at 8 bits."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from engines import MATRICES, STACKS, Net, build, distance, gradients, last
from torch import nn
from toys import weights

import anyoptim
from anyoptim.engines.galore import GaLoreAdafactor, GaLoreAdamW
from anyoptim.integrations.models import load_config
from anyoptim.memory.state import measured_state_bytes

STEPS = range(1, 13)
NAMES = ["galore_adamw", "galore_adafactor"]
TYPES = ["std", "reverse_std", "left", "right", "full"]
LARGE = {"tall": (1100, 30), "wide": (20, 1100), "stack": (2, 600, 12), "vector": (4096,), "short": (4095,)}


def sizes(shape: tuple[int, ...], rank: int, proj_type: str) -> tuple[int, int, list[int]]:
    """The low-rank rows and columns of a matrix, and the elements of its projections."""
    *_, rows, columns = shape
    tall = rows >= columns
    side = {"std": "right" if tall else "left", "reverse_std": "left" if tall else "right"}.get(proj_type, proj_type)
    left, right = side in ("left", "full"), side in ("right", "full")
    return (
        rank if left else rows,
        rank if right else columns,
        [rows * rank] * left + [columns * rank] * right,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("proj_type", TYPES)
@pytest.mark.parametrize("name", NAMES)
def test_state_is_as_large_as_the_shapes_say(name: str, proj_type: str, dtype: torch.dtype) -> None:
    shapes = {**MATRICES, **STACKS}
    model = Net(shapes, dtype=dtype)
    optimizer = build(name, model, rank=2, proj_type=proj_type)
    last(model, optimizer, STEPS)
    expected = 0
    for shape in shapes.values():
        rows, columns, projections = sizes(shape, 2, proj_type)
        moments = 2 * rows * columns if name == "galore_adamw" else rows + columns
        itemsize = dtype.itemsize if name == "galore_adamw" else torch.float32.itemsize
        expected += (shape[0] if len(shape) == 3 else 1) * (moments + sum(projections)) * itemsize
    assert measured_state_bytes(optimizer) == expected


def test_state_in_8_bits_is_as_large_as_the_shapes_say() -> None:
    model = Net(LARGE, dtype=torch.bfloat16)
    optimizer = build("galore_adamw_8bit", model, rank=4)
    last(model, optimizer, range(1, 3))
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        shape, stacked = LARGE[name], 2 if name == "stack" else 1
        rows, columns, _ = sizes(shape, 4, "std") if len(shape) > 1 else (1, shape[0], [])
        elements = stacked * rows * columns
        moments = [state["exp_avg"], state["exp_avg_sq"]]
        if elements < 4096:
            assert name == "short" and [each.dtype for each in moments] == [torch.float32] * 2
            assert "exp_avg_absmax" not in state
            continue
        assert [(each.dtype, each.numel()) for each in moments] == [(torch.uint8, elements)] * 2
        for key in ("exp_avg_absmax", "exp_avg_sq_absmax"):
            assert (state[key].dtype, state[key].numel()) == (torch.float32, -(-elements // 256))


def test_a_plan_of_a_7b_knows_the_state() -> None:
    """Two low-rank moments and a projection for each target; in 8 bits the moments take 2.03 bytes instead of 4."""
    from transformers import LlamaForCausalLM

    config = load_config("llama-7b")
    config.num_hidden_layers = 1
    with torch.device("meta"):
        layer = LlamaForCausalLM(config).to(torch.bfloat16).model.layers
    for norm in (layer[0].input_layernorm, layer[0].post_attention_layernorm):
        norm.requires_grad_(False)
    rank, found = 128, {}
    for name in ("galore_adamw", "galore_adamw_8bit"):
        plan = anyoptim.plan(name, layer, lr=1e-3, optim_target_modules="all-linear", rank=rank)
        assert plan.advice == ()
        found[name] = plan.state_bytes
    targets = [each.shape for each in layer.parameters() if each.requires_grad]
    moments = sum(2 * rank * max(shape) for shape in targets)
    projections = sum(2 * rank * min(shape) for shape in targets)
    assert found["galore_adamw"] == 2 * moments + projections
    assert found["galore_adamw_8bit"] == moments + 4 * moments // 256 + projections


@pytest.mark.parametrize("proj_type", TYPES)
@pytest.mark.parametrize("name", [*NAMES, "galore_adamw_8bit"])
def test_a_stack_is_that_many_matrices(name: str, proj_type: str) -> None:
    shape = (2, 256, 64)  # in 8 bits no block lies in two matrices
    given: dict[str, Any] = {"proj_type": proj_type, "weight_decay": 0.1, "update_proj_gap": 4, "rank": 64}
    if name == "galore_adafactor":
        given |= {"beta1": 0.9, "scale_parameter": True}
    stacked = Net({"stack": shape})
    alone = nn.ParameterList([each.clone() for each in stacked.stack.detach()])
    optimizer = build(name, alone, **given)
    for step in STEPS:
        for parameter, gradient in zip(alone, gradients({"stack": shape}, step)["stack"], strict=True):
            parameter.grad = gradient
        optimizer.step()
    together = last(stacked, build(name, stacked, **given), STEPS)
    close = 1e-6 if name != "galore_adamw_8bit" else 1e-4  # a last digit may be another code
    assert distance({"stack": torch.stack([each.detach() for each in alone])}, together) < close


@pytest.mark.parametrize("proj_type", TYPES)
def test_projections_are_orthonormal_and_renewed(proj_type: str) -> None:
    model = Net({**MATRICES, **STACKS})
    optimizer = build("galore_adamw", model, rank=2, update_proj_gap=3, proj_type=proj_type)
    seen: list[dict[str, torch.Tensor]] = []
    for step in range(1, 8):
        last(model, optimizer, range(step, step + 1))
        seen.append({key: each for key, each in optimizer.state[model.tall].items() if key.startswith("projection")})
    for key in seen[0]:
        changed = [not torch.equal(old[key], new[key]) for old, new in itertools.pairwise(seen)]
        assert changed == [False, False, True, False, False, True]
    for parameter in model.parameters():
        state = optimizer.state[parameter]
        for key, gram in (("left", lambda p: p.mT @ p), ("right", lambda p: p @ p.mT)):
            if f"projection_{key}" in state:
                product = gram(state[f"projection_{key}"])
                torch.testing.assert_close(product, torch.eye(2).expand_as(product))


@pytest.mark.parametrize("proj_type", TYPES)
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_without_memory_the_update_is_the_best_approximation_of_that_rank(rank: int, proj_type: str) -> None:
    """Where eps hides Adam's denominator; arXiv 2403.03507, equations 12 to 14."""
    model = Net({"tall": (12, 8), "wide": (8, 12)})
    before, drawn = weights(model), gradients({"tall": (12, 8), "wide": (8, 12)}, 1)
    given = {"lr": 1e6, "betas": (0.0, 0.0), "eps": 1e6, "correct_bias": False, "scale": 0.5}
    after = last(model, build("galore_adamw", model, rank=rank, proj_type=proj_type, **given), range(1, 2))
    for name, gradient in drawn.items():
        u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
        expected = 0.5 * u[:, :rank] * s[:rank] @ vh[:rank]
        torch.testing.assert_close(before[name] - after[name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["galore_adamw", "galore_adafactor", "galore_adamw_8bit"])
def test_a_bad_gradient_in_a_renewal_spoils_one_matrix(name: str) -> None:
    model = Net({"stack": (2, 6, 4), "tall": (12, 8)})
    optimizer = build(name, model)
    bad = torch.zeros(2, 6, 4)
    bad[1, 0, 0] = float("nan")
    model.stack.register_hook(lambda gradient: gradient + bad)
    after = last(model, optimizer, range(1, 2))
    assert after["tall"].isfinite().all() and after["stack"][0].isfinite().all()
    assert not after["stack"][1].isfinite().any()


def test_8_bits_train_as_32_do() -> None:
    """After 100 steps the two are nearer than a tenth of the way."""
    start, exact, rounded = Net(LARGE), Net(LARGE), Net(LARGE)
    given = {"lr": 0.01, "rank": 4, "update_proj_gap": 20}
    expected = last(exact, build("galore_adamw", exact, **given), range(1, 101))
    actual = last(rounded, build("galore_adamw_8bit", rounded, **given), range(1, 101))
    for key in LARGE:
        way = (expected[key] - weights(start)[key]).norm()
        assert (actual[key] - expected[key]).norm() < (0.1 if key != "short" else 1e-6) * way, key


def test_bits_are_one_of_two() -> None:
    model = Net(MATRICES)
    with pytest.raises(anyoptim.OptimArgsError, match="optim_bits must be 8 or 32"):
        anyoptim.get_optimizer("galore_adamw", model, optim_args="optim_bits=16", optim_target_modules="all-linear")


@pytest.mark.parametrize("key", ["relative_step", "warmup_init"])
def test_a_relative_step_is_refused(key: str) -> None:
    with pytest.raises(anyoptim.OptimArgsError, match=f"{key} cannot be set: .*lr_scheduler_type"):
        anyoptim.parse_optim_args(f"{key}=true", "galore_adafactor")


@pytest.mark.parametrize("engine", [GaLoreAdamW, GaLoreAdafactor])
def test_a_vector_has_no_rank(engine: Any) -> None:
    with pytest.raises(ValueError, match=r"shape \(5,\) is no matrix"):
        engine([{"params": list(Net({"tall": (12, 8), "vector": (5,)}).parameters()), "rank": 2}])
