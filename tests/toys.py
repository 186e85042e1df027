"""Small models, real bytes and short runs that the tests share."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import anyoptim
from anyoptim.cli.demo import GUIDE
from anyoptim.comparing.stdlib_text import Bytes

_SPECS = [anyoptim.optimizer_info(name) for name in anyoptim.list_optimizers(package="anyoptim")]
NAMES = sorted({*GUIDE, *(spec.name for spec in _SPECS if not spec.is_wrapper)})
"""The guide's names and our engines, which every test runs; the conformance kit checks all names (make matrix)."""
GUIDE_SPELLINGS = ["schedule_free_radam"]
LENGTH = 32

SIZES = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
TINY_LLAMA = LlamaConfig(**SIZES, tie_word_embeddings=False)
TINY_BERT = BertConfig(**SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(copy.deepcopy(TINY_LLAMA))  # TRL changes a model's config


def bert(seed: int = 0) -> BertForMaskedLM:
    torch.manual_seed(seed)
    return BertForMaskedLM(copy.deepcopy(TINY_BERT))


def lora(seed: int = 0, **config: Any) -> torch.nn.Module:
    """A Llama with adapters; for tests of the newest environment, which alone has PEFT."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(llama(seed), LoraConfig(**{"r": 4, "task_type": "CAUSAL_LM", **config}))


MODELS = {"llama": llama, "bert": bert}


def data() -> Bytes:
    return Bytes(inspect.getsource(inspect).encode(), LENGTH)


def needs_of(name: str) -> dict[str, Any]:
    """What a spec's traits ask of TrainingArguments, at a size that fits the tiny models."""
    spec = anyoptim.optimizer_info(name)
    has_rank = any(each.name == "rank" for each in spec.hyperparameters)
    optim_args = "rank=8" if has_rank and name != "apollo_mini" else None
    if spec.fallback is not None and spec.fallback.usual_lr:
        optim_args = f"fallback_lr={spec.fallback.usual_lr[1]}"
    return {
        "optim_target_modules": "all-linear" if spec.traits.names_targets else None,
        "optim_args": optim_args,
        "learning_rate": spec.usual_lr[1] if spec.usual_lr else 1e-3,
        "lr_scheduler_type": "constant" if spec.traits.schedule_free else "linear",
        "max_grad_norm": 0.0 if spec.fused_backward or spec.traits.clips_updates else 1.0,
    }


def skip_unless_installed(name: str) -> None:
    """Leave a name out where its package is not there, as in the environments of older transformers."""
    if not anyoptim.optimizer_info(name).installed:
        pytest.skip(f"{name} is not installed")


def run_arguments(folder: Path, **fields: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": 20,
        "per_device_train_batch_size": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        **fields,
    }


def arguments(folder: Path, **fields: Any) -> TrainingArguments:
    return TrainingArguments(**run_arguments(folder, **fields))


def train(model: torch.nn.Module, args: TrainingArguments, cls: type[Trainer] = Trainer, **kwargs: Any) -> Trainer:
    trainer = cls(model=model, args=args, train_dataset=kwargs.pop("train_dataset", data()), **kwargs)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return trainer


def losses(trainer: Trainer) -> list[float]:
    return [float(row["loss"]) for row in trainer.state.log_history if "loss" in row]


def falls(values: list[float]) -> bool:
    """Whether the last five losses are clearly below the first five."""
    return sum(values[-5:]) / 5 < sum(values[:5]) / 5 - 0.2


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same_weights(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def inner(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def plain_steps(model: torch.nn.Module, optimizer: Any, count: int = 20, seed: int = 7) -> None:
    """A training loop without a Trainer; lomo_optim's objects do their own backward pass."""
    generator = torch.Generator().manual_seed(seed)
    examples = data()
    if hasattr(optimizer, "train"):
        optimizer.train()
    for _ in range(count):
        chosen = torch.randint(len(examples), (8,), generator=generator).tolist()
        batch = torch.stack([examples[index]["input_ids"] for index in chosen])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if hasattr(optimizer, "eval"):
        optimizer.eval()


def values_by_parameter(optimizer: Any, model: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """Every parameter's hyperparameters by its name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
