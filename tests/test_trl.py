"""TRL's SFTTrainer, whose arguments are a subclass of TrainingArguments with a parser of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toys import GUIDE_SPELLINGS, NAMES, data, falls, llama, losses, needs_of, run_arguments, train

pytestmark = pytest.mark.usefixtures("enabled")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Bytes as tokens, made here: no hub is needed."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    model = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="!", eos_token='"')


@pytest.fixture(scope="module")
def texts() -> Any:
    from datasets import Dataset

    examples = data()
    rows = [bytes(examples[index]["input_ids"].tolist()).decode("latin-1") for index in range(256)]
    return Dataset.from_dict({"text": rows})


@pytest.mark.parametrize("name", [*NAMES, *GUIDE_SPELLINGS])
def test_each_name_trains_in_sft_trainer(name: str, tokenizer: Any, texts: Any, tmp_path: Path) -> None:
    from trl import SFTConfig, SFTTrainer

    fields = run_arguments(tmp_path, optim=name, max_steps=30, max_length=32, bf16=False, **needs_of(name))
    trainer = train(
        llama(),
        SFTConfig(**fields),
        SFTTrainer,
        train_dataset=texts,
        processing_class=tokenizer,
    )
    assert falls(losses(trainer)), losses(trainer)


@pytest.mark.parametrize("name", [*NAMES, *GUIDE_SPELLINGS])
def test_trl_parser_takes_each_name(name: str, tmp_path: Path) -> None:
    from trl import SFTConfig, TrlParser

    words = ["--output_dir", str(tmp_path), "--optim", name, "--use_cpu", "true"]
    (args,) = TrlParser(SFTConfig).parse_args_and_config(words)
    assert args.optim == name
