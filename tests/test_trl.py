"""TRL's SFTTrainer, whose arguments are a subclass of TrainingArguments with a parser of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toys import GUIDE_SPELLINGS, NAMES, falls, llama, losses, needs_of, run_arguments, train

pytestmark = pytest.mark.usefixtures("enabled")


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
