"""Experts of a mixture: stacks of matrices as targets, and Muon on them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from architectures import architecture
from targets import ours
from torch import nn
from toys import arguments, data, inner, needs_of, train, weights

import anyoptim
from anyoptim.memory.state import measured_state_bytes

MOE = ["MixtralForCausalLM", "Qwen3MoeForCausalLM", "DeepseekV3ForCausalLM", "GptOssForCausalLM"]


@pytest.mark.parametrize("name", MOE)
def test_experts_are_targets(name: str) -> None:
    model = architecture(name)
    stacks = {each for each, parameter in model.named_parameters() if parameter.dim() == 3}
    assert stacks
    for target in (
        [r".*mlp.*"],
        ["mlp"],
        ["experts"],
        "all-linear",
        "hidden-matrices",
        [r".*\.gate_up_proj", "down_proj"],
    ):
        assert stacks <= ours(model, target), target
    planned = anyoptim.plan("apollo_adamw", model, optim_target_modules=["attn"])
    assert any("expert stacks such as" in each and "% of the model) are no targets" in each for each in planned.advice)
    planned = anyoptim.plan("apollo_adamw", model, optim_target_modules="all-linear", implementation="upstream")
    assert any("the upstream implementation cannot take them" in each for each in planned.advice)


def test_state_of_a_moe_model_falls_as_the_shapes_say() -> None:
    model, rank = architecture("Qwen3MoeForCausalLM"), 4
    planned = anyoptim.plan("apollo_adamw", model, optim_target_modules="all-linear", rank=rank)
    expected = 0
    for name, parameter in model.named_parameters():
        *stack, rows, columns = (1, *parameter.shape) if parameter.dim() == 1 else parameter.shape
        matrices = stack[0] if stack else 1
        if parameter.dim() == 1 or "embed" in name:
            expected += 2 * parameter.numel()
        else:  # two moments of the short side, and the limiter's norm
            expected += matrices * (2 * max(rows, columns) * rank + 1)
    assert planned.state_bytes == 4 * expected
    adamw = anyoptim.plan("adamw_torch", model).state_bytes
    assert adamw is not None and planned.state_bytes < adamw / 4


def mixture_of_experts() -> nn.Module:
    like = architecture("Qwen3MoeForCausalLM")
    config = copy.deepcopy(like.config)
    config.num_experts_per_tok = 2
    torch.manual_seed(0)
    return type(like)(config)


@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("name", ["muon", "apollo_adamw", "galore_adamw_8bit", "galore_adafactor"])
def test_a_moe_model_trains_and_its_state_is_what_was_predicted(name: str, tmp_path: Path) -> None:
    model = mixture_of_experts()
    model.config.vocab_size = 128
    before = weights(model)
    fields = {**needs_of(name), "optim": name, "max_steps": 3}
    if name != "muon":
        fields |= {"optim_target_modules": [r".*mlp.*", "attn"], "optim_args": "rank=4"}
    examples = [{key: value % 128 for key, value in data()[index].items()} for index in range(24)]
    trainer = train(model, arguments(tmp_path, **fields), train_dataset=examples)
    assert sum(parameter.dim() == 3 for parameter in model.parameters()) == 4
    assert all(not torch.equal(value, before[key]) for key, value in weights(model).items())
    predicted = anyoptim.plan(name, model, arguments(tmp_path, **fields)).state_bytes
    assert measured_state_bytes(inner(trainer.optimizer)) == predicted


@pytest.mark.usefixtures("multiplied_as_by_torch")
def test_muon_on_stacks_of_experts() -> None:
    """Each expert is a matrix of its own: against torch's Muon on every one of them."""
    model = mixture_of_experts()
    before = weights(model)
    optimizer = anyoptim.get_optimizer("muon", model, lr=0.01, weight_decay=0.1, momentum=0.9, split_fused=False)
    batch = torch.randint(0, 100, (2, 16))
    model(input_ids=batch, labels=batch).loss.backward()
    stacks = [name for name, each in model.named_parameters() if each.dim() == 3]
    expected = {}
    for name in stacks:
        parameter = model.get_parameter(name)
        experts = [nn.Parameter(each.clone()) for each in parameter.detach()]
        assert parameter.grad is not None
        for expert, gradient in zip(experts, parameter.grad, strict=True):
            expert.grad = gradient.clone()
        torch.optim.Muon(experts, lr=0.01, weight_decay=0.1, momentum=0.9).step()
        expected[name] = torch.stack([each.detach() for each in experts])
    optimizer.step()
    assert len(stacks) == 4
    for name in stacks:
        assert not torch.equal(model.get_parameter(name), before[name])
        torch.testing.assert_close(model.get_parameter(name).detach(), expected[name], rtol=0, atol=1e-4)
