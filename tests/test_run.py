"""``anyoptim run``: scripts and commands as they are, with every name, in every process that they start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from processes import command
from toys import TINY_LLAMA, data

ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "examples" / "train.py"
RUN = [sys.executable, "-m", "anyoptim", "run"]
CPU = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}


def run(*words: str | Path, code: int = 0, cwd: Path | None = None, before: Sequence[str] = RUN) -> tuple[str, str]:
    done = subprocess.run(
        [*before, *map(str, words)], capture_output=True, text=True, check=False, cwd=cwd, env=CPU, timeout=300
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout, done.stderr


def words_of(folder: Path, name: str) -> list[str]:
    """The script's arguments for a tiny run."""
    config, text = folder / "config.json", folder / "text.txt"
    TINY_LLAMA.to_json_file(config)
    text.write_bytes(b"".join(bytes(data()[index]["input_ids"].tolist()) for index in range(64)))
    own = ["--config", str(config), "--text", str(text), "--block_size", "32"]
    trainers = {"output_dir": folder / "out", "optim": name, "max_steps": 3, "logging_steps": 1, "save_steps": 3}
    rest = {"per_device_train_batch_size": 4, "report_to": "none", "learning_rate": 1e-3, "use_cpu": "true"}
    return own + [str(word) for key, value in {**trainers, **rest}.items() for word in (f"--{key}", value)]


def what_ran(folder: Path) -> dict[str, Any]:
    """What the Trainer's state says of the optimizer."""
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == 3
    record: dict[str, Any] = state["stateful_callbacks"]["OptimizerRecord"]["attributes"]
    return record


@pytest.mark.slow
@pytest.mark.trainer
def test_a_script_that_knows_nothing_of_anyoptim(tmp_path: Path) -> None:
    words = words_of(tmp_path, "adalomo")
    run(TRAIN, *words)
    assert what_ran(tmp_path / "out")["name"] == "adalomo"
    # and it is one that transformers alone refuses
    words = [word.replace("adalomo", "lookahead(adamw_torch)") for word in words]
    run(TRAIN, *words)
    assert what_ran(tmp_path / "out")["name"] == "lookahead(adamw_torch)"
    _, error = run(*words, code=2, before=[sys.executable, str(TRAIN)])
    assert "invalid choice" in error  # without ours


@pytest.mark.slow
@pytest.mark.parametrize(
    "launch",
    [
        ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "anyoptim", "run"],
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "anyoptim", "run"],
    ],
    ids=["accelerate", "torchrun"],
)
def test_two_processes(launch: list[str], tmp_path: Path) -> None:
    run(TRAIN, *words_of(tmp_path, "soap"), "--ddp_backend", "gloo", before=[sys.executable, *launch])
    assert what_ran(tmp_path / "out")["name"] == "soap"
    blocks = (tmp_path / "text.txt").stat().st_size // 32
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["epoch"] == pytest.approx(3 / (blocks / 8))  # 4 examples in each of 2 processes


@pytest.mark.slow
def test_trl_sft_in_the_process_that_its_launcher_starts(tmp_path: Path, tokenizer: Any, texts: Any) -> None:
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(TINY_LLAMA).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    texts.select(range(32)).to_json(tmp_path / "data" / "train.jsonl")
    words = f"-m trl.cli sft --model_name_or_path {tmp_path}/model --dataset_name {tmp_path}/data --output_dir out"
    more = (
        "--optim muon --optim_args fallback_lr=1e-3,momentum=0.9 --learning_rate 0.02 --max_steps 3 --logging_steps 1"
    )
    last = "--save_steps 3 --report_to none --use_cpu true --per_device_train_batch_size 2 --max_length 32 --bf16 false"
    run(*words.split(), *more.split(), *last.split(), cwd=tmp_path)
    record = what_ran(tmp_path / "out" / "checkpoint-3")
    assert record["name"] == "muon"
    assert record["hyperparameters"]["momentum"] == 0.9


def test_a_script_sees_what_python_itself_would_give_it(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("WORD = 'beside'\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, beside\n"
        "print(repr((sys.argv, __name__, __file__, beside.WORD)))\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
        "sys.exit(int(sys.argv[-1]))\n"
    )
    words = ["--json", "-m", "x", "--debug", "--help", "--", "3"]
    ours, _ = run(script, *words, code=3)
    theirs, _ = run(script, *words, code=3, before=[sys.executable])
    assert ours == theirs
    ours, _ = run("-m", "script", *words, code=3, cwd=tmp_path)
    theirs, _ = run("-m", "script", *words, code=3, before=[sys.executable], cwd=tmp_path)
    assert ours == theirs


def test_an_exception_is_the_scripts_own(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("def fail():\n    raise ValueError('no')\n\nfail()\n")
    _, ours = run(script, code=1)
    _, theirs = run(script, code=1, before=[sys.executable])
    assert ours == theirs


def test_a_refusal_inside_a_script_is_one_line(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import anyoptim, torch\nanyoptim.get_optimizer('sgd', torch.nn.Linear(2, 2), momentun=1)\n")
    done = command("run", script)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "Did you mean 'momentum'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" in command("--debug", "run", script).stderr


def test_a_wrong_name_on_the_command_line_is_a_sentence(tmp_path: Path) -> None:
    done = command("run", TRAIN, *words_of(tmp_path, "apolo_adamw"), env=CPU)
    assert done.returncode == 2
    error = done.stderr
    assert "Did you mean 'apollo_adamw'" in error
    assert "pytorch_optimizer/" not in error
    assert len(error) < 20_000


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    _, error = run("trian.py", code=1, cwd=tmp_path)
    assert "Did you mean 'train.py'?" in error
    _, error = run("trl.cli", code=1, cwd=tmp_path)
    assert "There is no script or command 'trl.cli'. For a module" in error
    _, error = run("-m", "no_such.module", code=1, cwd=tmp_path)
    assert "There is no module 'no_such.module'" in error
    assert "Traceback" not in error


def test_children_are_enabled_too_and_another_sitecustomize_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('the other one')\n")
    child = "from transformers.training_args import OptimizerNames; print(OptimizerNames('soap').value)"
    script = tmp_path / "script.py"
    script.write_text(
        "import os, subprocess, sys\n"
        f"os.environ['PYTHONPATH'] += os.pathsep + {str(tmp_path)!r}\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)\n"
    )
    output, _ = run(script)
    assert output.split() == ["the", "other", "one", "soap"]


OTHERS = [pytest.param(each, marks=pytest.mark.slow) for each in ("transformers.training_args", "trl")]


@pytest.mark.parametrize("first", ["transformers.trainer", *OTHERS])
def test_names_are_there_whichever_module_is_imported_first(first: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import {first}, anyoptim.integrations.transformers as ours\n"
        "from transformers import Trainer, TrainingArguments\n"
        "print(TrainingArguments('out', optim='soap', use_cpu=True).optim.value)\n"
        "assert Trainer.get_optimizer_cls_and_kwargs.__wrapped__.__module__ == 'transformers.trainer'\n"
        "ours.disable()\n"
        "assert not hasattr(Trainer.get_optimizer_cls_and_kwargs, '__wrapped__')\n"
    )
    output, _ = run(script)
    assert "soap" in output
