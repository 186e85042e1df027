"""Loaded state is what the first step would make, or it is refused by name; the kit asks it of every name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from toys import NAMES, TINY_LLAMA, inner, llama, needs_of, skip_unless_installed
from transformers import LlamaForCausalLM

import anyoptim

HELD = [name for name in NAMES if name not in ("lomo", "sgd")]
"""Those whose state has shapes."""


def stepped(name: str, model: torch.nn.Module, steps: int = 2, optim_args: str = "") -> Any:
    optimizer = anyoptim.get_optimizer(name, model, needs_of(name), optim_args=optim_args)
    if hasattr(inner(optimizer), "train"):
        optimizer.train()
    for _ in range(steps):
        model(input_ids=torch.arange(16).reshape(2, 8), labels=torch.arange(16).reshape(2, 8)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def of_tensors(change: Any, state: Any) -> Any:
    if isinstance(state, dict):
        return {key: of_tensors(change, each) for key, each in state.items()}
    return change(state) if isinstance(state, torch.Tensor) and state.numel() > 1 else state


@pytest.mark.parametrize("name", HELD)
def test_a_resized_vocabulary_is_refused(name: str) -> None:
    saved = stepped(name, llama()).state_dict()
    config = copy.deepcopy(TINY_LLAMA)
    config.vocab_size += 16
    loading = anyoptim.get_optimizer(name, LlamaForCausalLM(config), needs_of(name))
    with pytest.raises(anyoptim.CheckpointError, match=r"does not fit (model.embed_tokens|lm_head).weight: its \w+ is"):
        loading.load_state_dict(saved)


@pytest.mark.parametrize("name", HELD)
def test_a_missing_key_is_refused(name: str) -> None:
    saved = stepped(name, llama()).state_dict()
    place = next(place for place, state in saved["state"].items() if any(map(torch.is_tensor, state.values())))
    key = next(key for key, value in saved["state"][place].items() if torch.is_tensor(value) and value.numel() > 1)
    del saved["state"][place][key]
    with pytest.raises(anyoptim.CheckpointError, match=f"does not fit .*: it has no {key}"):
        anyoptim.get_optimizer(name, llama(), needs_of(name)).load_state_dict(saved)


@pytest.mark.parametrize("name", HELD)
def test_another_dtype_is_cast_or_refused(name: str) -> None:
    running = stepped(name, llama())
    saved = {**running.state_dict(), "state": of_tensors(torch.Tensor.double, running.state_dict()["state"])}
    model = llama()
    loading = anyoptim.get_optimizer(name, model, needs_of(name))
    try:
        loading.load_state_dict(saved)
    except anyoptim.CheckpointError as refused:
        assert "torch.float64, not" in str(refused)
        return
    dtypes = [of_tensors(lambda value: value.dtype, each.state_dict()["state"]) for each in (loading, running)]
    assert dtypes[0] == dtypes[1]


@pytest.mark.parametrize("name", ["adafactor", "heavyball/adamw", "came_pytorch/came"])
def test_float32_state_of_bf16_weights_comes_back_as_it_was(name: str) -> None:
    """torch casts what it loads to the dtype of the parameter."""
    skip_unless_installed(name)
    running = stepped(name, llama().to(torch.bfloat16))
    loading = anyoptim.get_optimizer(name, llama().to(torch.bfloat16), needs_of(name))
    loading.load_state_dict(copy.deepcopy(running.state_dict()))
    held, saved = (inner(each).state_dict()["state"] for each in (loading, running))
    assert torch.float32 in {each.dtype for each in torch.utils._pytree.tree_leaves(saved) if torch.is_tensor(each)}
    torch.testing.assert_close(held, saved, rtol=0, atol=0)


def test_what_a_hook_makes_of_it_stays() -> None:
    """Also where it has to be cast back."""
    running = stepped("adafactor", llama().to(torch.bfloat16))
    loading = anyoptim.get_optimizer("adafactor", llama().to(torch.bfloat16), needs_of("adafactor"))
    loading.register_load_state_dict_pre_hook(
        lambda _, held: {**held, "state": of_tensors(torch.zeros_like, held["state"])}
    )
    loading.load_state_dict(running.state_dict())
    held = [each for state in loading.state.values() for each in state.values() if torch.is_tensor(each)]
    assert torch.float32 in {each.dtype for each in held}
    assert not any(bool(each.any()) for each in held if each.numel() > 1)


FLASH = "pytorch_optimizer/flashadamw"


@pytest.mark.parametrize(
    ("wrote", "quantize"), [("compress_state_dict=false", True), ("", False), ("quantize=false", True)]
)
def test_state_that_an_optimizer_converts_is_loaded(wrote: str, quantize: bool) -> None:
    skip_unless_installed(FLASH)
    saved = stepped(FLASH, llama(), optim_args=wrote).state_dict()
    for group in saved["param_groups"]:
        group["quantize"] = quantize
    model = llama()
    loading = anyoptim.get_optimizer(FLASH, model)
    loading.load_state_dict(saved)
    model(input_ids=torch.ones(1, 8, dtype=torch.long), labels=torch.ones(1, 8, dtype=torch.long)).loss.backward()
    loading.step()
    assert ("exp_avg::quantized" in next(iter(loading.state.values()))) == quantize


@pytest.mark.parametrize("wrote", ["", "compress_state_dict=false"])
def test_state_that_an_optimizer_converts_has_its_shape(wrote: str) -> None:
    skip_unless_installed(FLASH)
    saved = stepped(FLASH, llama(), optim_args=wrote).state_dict()
    config = copy.deepcopy(TINY_LLAMA)
    config.vocab_size += 16
    with pytest.raises(anyoptim.CheckpointError, match=r"does not fit model.embed_tokens.weight"):
        anyoptim.get_optimizer(FLASH, LlamaForCausalLM(config)).load_state_dict(saved)


def test_state_that_changes_its_size_is_loaded() -> None:
    skip_unless_installed("spam")
    settings = "density=0.5,update_proj_gap=1"
    running = stepped("spam", llama(), steps=3, optim_args=settings)
    loading = anyoptim.get_optimizer("spam", llama(), optim_args=settings)
    loading.load_state_dict(copy.deepcopy(running.state_dict()))
    held, saved = (each.state_dict()["state"] for each in (loading, running))
    torch.testing.assert_close(held, saved, rtol=0, atol=0)
