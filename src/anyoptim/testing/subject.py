"""What is checked: a name with arguments at which it learns, and the tiny model, text and runs to check it with."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from anyoptim.comparing.stdlib_text import Bytes
from anyoptim.errors import OptimError
from anyoptim.names.hyperparameters import REQUIRED
from anyoptim.names.lookup import optimizer_info
from anyoptim.names.spec import OptimizerSpec
from anyoptim.planning.plan import Plan, plan

STEPS, SAVED_AT, BATCH = 12, 6, 8
_LENGTH = 32


@dataclass
class Subject:
    """An optimizer under test.

    Args:
        name: as in ``optim=``; a wrapper is checked around ``adamw_torch``.
        fields: fields of TrainingArguments that it needs, such as ``optim_args``.
        device: where its models and batches are.

    Attributes:
        kept: what several checks look at, such as one run of the Trainer.
    """

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    kept: dict[str, object] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if optimizer_info(self.name).is_wrapper:
            self.name = f"{self.name}(adamw_torch)"
        try:
            torch.empty(0, device=self.device)
        except Exception as error:  # torch has a kind of its own for each way a device can be missing
            reason = str(error).partition("\n")[0].rstrip(".")
            raise OptimError(
                f"Nothing can be put on device {self.device!r} here ({reason}); `anyoptim doctor` shows the devices."
            ) from error

    @cached_property
    def spec(self) -> OptimizerSpec:
        """What the name means."""
        return optimizer_info(self.name)

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The fields of TrainingArguments that its traits ask for."""
        has_rank = any(each.name == "rank" and each.scope == "target" for each in self.spec.hyperparameters)
        default = {each.name: each.default for each in self.spec.hyperparameters}
        rank = default.get("rank")
        rank_is_large = isinstance(rank, int) and rank > 8
        return {
            "optim": self.name,
            "learning_rate": self.rate,
            "optim_target_modules": "all-linear" if self.spec.traits.names_targets else None,
            "optim_args": ",".join([*self.required, *(["rank=8"] if has_rank and rank_is_large else [])]) or None,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0 if self.spec.fused_backward or self.spec.traits.clips_updates else 1.0,
            "max_steps": STEPS,
            **self.fields,
        }

    @property
    def required(self) -> list[str]:
        """Arguments for hyperparameters without a default: any number will do for a check."""
        return [
            f"{each.name}=1000000"
            for each in self.spec.hyperparameters
            if each.default is REQUIRED and not each.taken_from and each.type in (int, float)
        ]

    @property
    def rate(self) -> float:
        """The constructor's learning rate, within the usual ones."""
        own = next((each.default for each in self.spec.hyperparameters if each.name == "lr"), None)
        low, high = self.spec.usual_lr or (0.0, float("inf"))
        rate = float(own) if isinstance(own, (int, float)) and own > 0 else 1e-3
        return min(max(rate, low), high)

    def model(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """Build the tiny model on its device."""
        return tiny_model(seed, dtype).to(self.device)

    def plan(self, model: nn.Module, **changed: Any) -> Plan:
        """Plan it for a model, with the arguments that it needs."""
        return plan(self.name, model, {**self.arguments, **changed})

    def build(self, model: nn.Module, **changed: Any) -> Optimizer:
        """Build it for a model, in training mode."""
        optimizer = self.plan(model, **changed).build()
        if hasattr(optimizer, "train"):
            optimizer.train()
        return optimizer

    def step(self, model: nn.Module, optimizer: Optimizer, seed: int) -> float:
        """Take one step on a batch of text."""
        tokens = batch(seed).to(self.device)

        def evaluate() -> float:
            optimizer.zero_grad()
            loss: Tensor = model(input_ids=tokens, labels=tokens).loss
            loss.backward(create_graph=self.spec.traits.second_order)  # type: ignore[no-untyped-call]  # torch's
            return float(loss)

        loss = evaluate()
        optimizer.step(evaluate) if self.spec.traits.needs_closure else optimizer.step()
        optimizer.zero_grad()
        return loss

    def train(self, folder: Path, *, resume: bool = False, seed: int = 0, callbacks: Any = None, **changed: Any) -> Any:
        """Train the tiny model with the real Trainer, and return the Trainer."""
        from transformers import Trainer, TrainingArguments

        fields = {
            "output_dir": str(folder),
            "per_device_train_batch_size": BATCH,
            "logging_steps": 1,
            "logging_nan_inf_filter": False,  # else a loss of NaN is logged as 0
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": torch.device(self.device).type == "cpu",
            "dataloader_num_workers": 0,
            **self.arguments,
            **changed,
        }
        arguments = TrainingArguments(**fields)
        # where there are several devices, a Trainer would split each batch over all of them
        arguments._n_gpu = min(1, arguments.n_gpu)
        trainer = Trainer(self.model(seed), arguments, train_dataset=_text(), callbacks=callbacks)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            trainer.train(resume_from_checkpoint=resume or None)
        return trainer


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Build a Llama of 33,000 parameters whose attention can be differentiated twice."""
    from transformers import LlamaConfig, LlamaForCausalLM

    fields: dict[str, Any] = {
        "vocab_size": 256,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(LlamaConfig(**fields))
        return model.to(dtype)


@lru_cache(maxsize=1)
def _text() -> Bytes:
    return Bytes(inspect.getsource(inspect).encode(), _LENGTH)


def batch(seed: int) -> Tensor:
    """Return a batch of text as numbers."""
    text = _text()
    chosen = torch.randint(len(text), (BATCH,), generator=torch.Generator().manual_seed(seed)).tolist()
    return torch.stack([text[index]["input_ids"] for index in chosen])


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copy a model's weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def moved(before: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    """Return the names of the weights that changed; NaN is no change of NaN."""

    def same(now: Tensor, then: Tensor) -> bool:
        return now.dtype == then.dtype and torch.allclose(now, then, rtol=0.0, atol=0.0, equal_nan=True)

    return [name for name, value in model.state_dict().items() if not same(value, before[name])]


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors inside dicts and sequences."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors(each)
