"""TRL's SFTTrainer, whose arguments are a subclass of TrainingArguments with parsers of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toys import GUIDE_SPELLINGS, NAMES, falls, llama, losses, needs_of, run_arguments, train

import anyoptim

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


def test_trls_own_parser_takes_what_transformers_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is a copy of HfArgumentParser's source, with which `trl sft` reads its command line."""
    from trl import SFTConfig
    from trl.scripts._hf_argparser import HfArgumentParser

    def parse(name: str) -> Any:
        words = ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "false", "--optim", name]
        return HfArgumentParser(SFTConfig).parse_args_into_dataclasses(words)[0].optim

    for name in ("soap", "muon+lion", "lookahead(lion)", "torch.optim:NAdam", "adamw_torch"):
        assert getattr(parse(name), "value", name) == name
    with pytest.raises(SystemExit):
        parse("apolo_adamw")
    error = capsys.readouterr().err
    assert "Did you mean 'apollo_adamw'" in error and "schedule_free" not in error
    with anyoptim.enable(), pytest.raises(SystemExit):
        HfArgumentParser(SFTConfig).parse_args(["--help"])
    assert "--optim NAME" in capsys.readouterr().out


def test_the_command_of_trl(tmp_path: Path) -> None:
    """As a user types it: the parser of `trl sft`, in the process that it starts."""
    command = [sys.executable, "-m", "anyoptim", "run", "trl", "sft", "--dataset_name", "no/such", "--output_dir", "o"]
    for name, found in (("lookahed(lion)", "Did you mean 'lookahead'"), ("lookahead(lion)", "invalid float value")):
        words = ["--optim", name, "--learning_rate", "fast"]
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode != 0
        assert found in done.stderr and "invalid choice" not in done.stderr, done.stderr
