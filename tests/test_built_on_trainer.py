"""What others build on the Trainer: TRL, sentence-transformers, PEFT, Seq2SeqTrainer and subclasses of users."""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import (
    LENGTH,
    NAMES,
    arguments,
    inner,
    llama,
    lora,
    losses,
    needs_of,
    run_arguments,
    train,
    weights,
)
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, T5Config, T5ForConditionalGeneration, Trainer

import anyoptim
from anyoptim.building.records import record_of

pytestmark = pytest.mark.usefixtures("enabled")
each_name = pytest.mark.parametrize("name", NAMES)


def steps_of(name: str) -> int:
    """Enough for every weight to move: RAdam leaves all alone in its first steps."""
    is_radam = any(each.name == "silent_sgd_phase" for each in anyoptim.optimizer_info(name).hyperparameters)
    return 8 if is_radam else 3


def fields_of(name: str, folder: Path, **fields: Any) -> dict[str, Any]:
    return run_arguments(folder, optim=name, max_steps=steps_of(name), **needs_of(name), **fields)


def optimizer_type(name: str) -> type:
    """The type of what ``get_optimizer`` builds for a name, on the smallest of models."""
    return type(anyoptim.get_optimizer(name, torch.nn.Linear(8, 8), needs_of(name)))


def check_run(name: str, module: torch.nn.Module, run: Callable[[], Trainer]) -> Trainer:
    """Train; the optimizer must be the one of the name, and what must move, and no more, must have moved."""
    before = weights(module)
    trainer = run()
    record = record_of(trainer.optimizer)
    assert record is not None and record.writer.name == name
    assert type(inner(trainer.optimizer)) is optimizer_type(name)
    assert trainer.state.global_step == len(losses(trainer)) == steps_of(name)
    assert all(map(isfinite, losses(trainer))), losses(trainer)
    moved = {each for each, value in module.named_parameters() if not torch.equal(value, before[each])}
    assert moved == {each for each, value in module.named_parameters() if value.requires_grad}
    assert all(value.isfinite().all() for value in module.parameters())
    return trainer


# ---------------------------------------------------------------- TRL


@each_name
def test_dpo_trainer(name: str, tokenizer: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [{"prompt": f"{number} is ", "chosen": "a number", "rejected": "no word"} for number in range(8)]
    args = DPOConfig(**fields_of(name, tmp_path, max_length=LENGTH, bf16=False))
    model = llama()
    check_run(
        name,
        model,
        lambda: train(
            model,
            args,
            DPOTrainer,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            ref_model=llama(),
        ),
    )


def sum_of_ids(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that differs between any two completions, so that every group has an advantage."""
    return [float(sum(ids)) for ids in completion_ids]


@each_name
def test_grpo_trainer(name: str, tokenizer: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    rows = Dataset.from_list([{"prompt": f"{number} is "} for number in range(8)])
    args = GRPOConfig(**fields_of(name, tmp_path, num_generations=2, max_completion_length=4, bf16=False))
    model = llama()
    check_run(
        name,
        model,
        lambda: train(
            model, args, GRPOTrainer, train_dataset=rows, processing_class=tokenizer, reward_funcs=sum_of_ids
        ),
    )


@pytest.mark.parametrize("name", ["sgd", "sam(sgd)"])
def test_grpo_generates_as_often_for_a_closure(name: str, tokenizer: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    generated, seen = [], []

    class Watched(GRPOTrainer):
        def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
            generated.append(self.state.global_step)
            return super()._generate_and_score_completions(*args, **kwargs)

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append((self.state.global_step, inputs["completion_ids"].data_ptr()))
            return super().compute_loss(model, inputs, *args, **kwargs)

    rows = Dataset.from_list([{"prompt": f"{number} is "} for number in range(8)])
    fields = {"num_generations": 2, "max_completion_length": 4, "bf16": False, "gradient_accumulation_steps": 2}
    args = GRPOConfig(**run_arguments(tmp_path, optim=name, max_steps=3, learning_rate=1e-3, **fields))
    trainer = train(llama(), args, Watched, train_dataset=rows, processing_class=tokenizer, reward_funcs=sum_of_ids)
    assert trainer._step == 6
    assert generated == [0, 1, 2]
    evaluations = 2 if "sam" in name else 1
    assert [step for step, _ in seen] == [step for step in range(3) for _ in range(2 * evaluations)]
    for step in range(3):
        batches = [batch for at, batch in seen if at == step]
        assert batches == batches[:2] * evaluations


# ---------------------------------------------------------------- sentence-transformers


@pytest.fixture(scope="session")
def sentence_model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random DistilBERT, which has no unused pooler, by way of the folder that sentence-transformers wants."""
    from sentence_transformers import SentenceTransformer
    from transformers import DistilBertConfig, DistilBertModel

    folder = tmp_path_factory.mktemp("distilbert")
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=256,
        dim=32,
        hidden_dim=64,
        n_layers=2,
        n_heads=2,
        max_position_embeddings=64,
        dropout=0.0,
        attention_dropout=0.0,
    )
    DistilBertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return SentenceTransformer(str(folder), device="cpu")


@each_name
def test_sentence_transformer_trainer(name: str, sentence_model: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import SoftmaxLoss

    rows = [{"one": f"{n} of them", "other": f"{n + n % 2} of them", "label": n % 2} for n in range(16)]
    args = SentenceTransformerTrainingArguments(**fields_of(name, tmp_path))
    model = copy.deepcopy(sentence_model)
    loss = SoftmaxLoss(model, embedding_dimension=32, num_labels=2)  # it has weights of its own
    check_run(
        name,
        loss,
        lambda: train(model, args, SentenceTransformerTrainer, train_dataset=Dataset.from_list(rows), loss=loss),
    )


# ---------------------------------------------------------------- transformers and PEFT


@pytest.mark.trainer
@each_name
def test_seq2seq_trainer(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=256,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    args = Seq2SeqTrainingArguments(**fields_of(name, tmp_path))
    check_run(name, model, lambda: train(model, args, Seq2SeqTrainer))


@each_name
def test_lora_trains_the_adapter_only(name: str, tmp_path: Path) -> None:
    model = lora(target_modules="all-linear")
    assert {each.split(".")[-2] for each, value in model.named_parameters() if value.requires_grad} == {"default"}
    targets = ["lora_A", "lora_B"] if anyoptim.optimizer_info(name).traits.needs_targets else None
    args = arguments(tmp_path, **{**fields_of(name, tmp_path), "optim_target_modules": targets})
    check_run(name, model, lambda: train(model, args))


class OwnCreateOptimizer(Trainer):
    def create_optimizer(self, *args: Any) -> Any:
        optimizer = super().create_optimizer(*args)
        for group in optimizer.param_groups:
            group["lr"] = self.args.learning_rate / 2
        return optimizer


class OwnClsAndKwargs(Trainer):
    @staticmethod
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, Any]:
        cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
        return cls, {**kwargs, "lr": args.learning_rate / 2}


@pytest.mark.trainer
@pytest.mark.parametrize("subclass", [OwnCreateOptimizer, OwnClsAndKwargs])
@each_name
def test_a_subclass_may_change_the_learning_rate(name: str, subclass: type[Trainer], tmp_path: Path) -> None:
    model = llama()
    fields = fields_of(name, tmp_path)
    if anyoptim.optimizer_info(name).fallback is not None:
        fields["optim_args"] = None  # a fallback_lr would stay
    args = arguments(tmp_path, **fields)
    trainer = check_run(name, model, lambda: train(model, args, subclass))
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {args.learning_rate / 2}
