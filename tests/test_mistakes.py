"""A newcomer's mistakes, in the shell, in YAML and in Python: one sentence, whose mend works as it stands."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from processes import command, new_python
from test_docs import check_requirements
from toys import llama
from transformers import HfArgumentParser, TrainingArguments

import anyoptim
from anyoptim.cli import app

MEANT = r"Did you mean ('[^']+')"
WRITE = r"[Ww]rite ([^ ]+?)[.,](?: |$)"
WRITE_QUOTED = r"write ('.+')\."
GIVE = r"give ('[^']+')"

SHELL = [
    ("anyoptim {} --help", "pln", MEANT),
    ("anyoptim list {} timm", "--packge", MEANT),
    ("anyoptim list --package {}", "bitsandbyte", MEANT),
    ("anyoptim info {}", "apolo_adamw", MEANT),
    ("anyoptim info {}", "shedule_free", MEANT),
    ("anyoptim recommend --model tiny-llama --memory {}", "24", WRITE),
    ("anyoptim recommend --model tiny-llama {} 24GiB", "--memry", MEANT),
    ("anyoptim plan adamw --model {}", "tinyllama", MEANT),
    ("anyoptim plan adamw --model {}", "gpt_2", MEANT),
    ("anyoptim plan apollo_mini --model tiny-llama --optim-args {}=4", "rnak", MEANT),
    ("anyoptim plan apollo_mini --model tiny-llama --optim-args {}=4", "updat_proj_gap", MEANT),
    ("anyoptim plan apollo_mini --model tiny-llama --target-modules {}", "q_proj,v_proj", WRITE_QUOTED),
    ("anyoptim plan apollo_mini --model tiny-llama --target-modules {}", "q_proj", WRITE_QUOTED),
    ("anyoptim plan apollo_mini --model tiny-llama --target-modules {}", "q_porj", MEANT),
    ("anyoptim plan adamw --model tiny-llama --ranks 2 --sharding {}", "fsdp", MEANT),
    ("anyoptim check adamw --check {}", "bilds", MEANT),
]
YAML = [
    ("optim: {}", "muonn", MEANT),
    ("optim: {}", "lookahead", WRITE),
    ("optim: apollo_mini\n{}", "", f"needs (?P<field>optim_target_modules): {GIVE}"),
    ("optim: apollo_mini\noptim_target_modules: {}", "q_proj, v_proj", WRITE_QUOTED),
    ("optim: sgd\noptim_args:\n  {}: 0.9", "momentun", MEANT),
]
PYTHON = [
    ("anyoptim.get_optimizer({}, model)", "'adamv'", MEANT),
    ("anyoptim.get_optimizer('{}', model)", "torch.optim.AdamW", r"class path as ([\w.:]+)\. "),
    ("anyoptim.get_optimizer('torch.optim:{}', model)", "AdamV", r"Did you mean '(\w+)'"),
    ("anyoptim.get_optimizer('sgd', model, {}=0.9)", "momentun", r"Did you mean '(\w+)'"),
    ("anyoptim.get_optimizer('adamw', model, {}=1e-3)", "learning_rate", r"Did you mean '(\w+)'"),
    ("anyoptim.get_optimizer('apollo_mini', model, optim_target_modules=[{}])", "'q_porj'", MEANT),
    ("anyoptim.get_optimizer('adamw', model, groups=[{{'match': {}, 'lr': 1e-4}}])", "'embed_toknes'", MEANT),
    ("anyoptim.get_optimizer('adamw', model, groups=[{{'match': 'embed', {}: 1e-4}}])", "'lrr'", MEANT),
]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[[str], str]:
    monkeypatch.chdir(tmp_path)
    # every name takes its time
    monkeypatch.setattr("anyoptim.cli.recommend.list_optimizers", lambda **_: ["adamw_torch", "sgd"])

    def run(line: str) -> str:
        """Run a command line in this process; its sentence if it fails."""
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        monkeypatch.setattr(sys, "path", [*sys.path])
        with pytest.raises(SystemExit) as end:
            app.main()
        written = capsys.readouterr()
        assert bool(end.value.code) == written.err.startswith("error: ")
        return written.err.removeprefix("error: ").strip() if end.value.code else ""

    return run


@pytest.fixture
def yaml(tmp_path: Path) -> Callable[[str], str]:
    def read(text: str) -> str:
        """Make an optimizer as a script with ``--config`` does; the sentence if it fails."""
        path = tmp_path / "config.yaml"
        path.write_text(f"output_dir: {tmp_path}\nuse_cpu: true\n{text}\n")
        try:
            (args,) = HfArgumentParser(TrainingArguments).parse_yaml_file(str(path))
            anyoptim.get_optimizer(args.optim, llama(), args)
        except anyoptim.OptimError as error:
            return str(error)
        return ""

    return read


def python(code: str) -> str:
    """Run code; the sentence if it fails."""
    try:
        eval(code, {"anyoptim": anyoptim, "model": llama()})
    except anyoptim.OptimError as error:
        return str(error)
    return ""


def check(run: Callable[[str], str], template: str, wrong: str, pattern: str) -> None:
    """Make the mistake, read the mend from the sentence, and type it."""
    sentence = run(template.format(wrong))
    assert "\n" not in sentence
    found = re.search(pattern, sentence)
    assert found is not None, sentence
    mend = found[found.lastindex or 1]
    written = f"{found['field']}: {mend}" if "field" in found.groupdict() else mend
    assert run(template.format(written)) == ""


@pytest.mark.parametrize(("template", "wrong", "pattern"), SHELL)
def test_in_the_shell(template: str, wrong: str, pattern: str, shell: Callable[[str], str]) -> None:
    check(shell, template, wrong, pattern)


def test_a_script_in_the_shell(tmp_path: Path) -> None:
    """In a process of its own, where names stay enabled."""
    (tmp_path / "train.py").write_text("")

    def run(line: str) -> str:
        return command(*shlex.split(line)[1:], cwd=tmp_path).stderr.strip()

    check(run, "anyoptim run {}", "trian.py", MEANT)


@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize(("template", "wrong", "pattern"), YAML)
def test_in_yaml(template: str, wrong: str, pattern: str, yaml: Callable[[str], str]) -> None:
    check(yaml, template, wrong, pattern)


@pytest.mark.parametrize(("template", "wrong", "pattern"), PYTHON)
def test_in_python(template: str, wrong: str, pattern: str) -> None:
    check(python, template, wrong, pattern)


@pytest.mark.usefixtures("enabled")
def test_a_rate_that_yaml_reads_as_text_is_the_number(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"output_dir: {tmp_path}\noptim: adamw\nlearning_rate: 1e-5\n")
    (args,) = HfArgumentParser(TrainingArguments).parse_yaml_file(str(tmp_path / "config.yaml"))
    assert anyoptim.plan(args.optim, None, args).hyperparameters["lr"].value == 1e-5
    assert anyoptim.plan("adamw", None, lr="1e-5").hyperparameters["lr"].value == 1e-5


def test_lr_beside_learning_rate_says_whose_it_is() -> None:
    planned = anyoptim.plan("adamw", None, {"learning_rate": 1e-3}, optim_args="lr=1e-4")
    setting: Any = planned.hyperparameters["lr"]
    assert (setting.value, setting.source) == (1e-4, "optim_args")


def test_a_package_that_is_not_installed() -> None:
    program = (
        "import sys; sys.modules['bitsandbytes'] = None\n"
        "sys.argv = ['anyoptim', 'check', 'bitsandbytes/lion', '--check', 'builds']\n"
        "from anyoptim.cli.app import main\n"
        "main()\n"
    )
    said = new_python(program, code=1)
    (line,) = (said.stdout + said.stderr).splitlines()
    found = re.search(r"Install it: (pip install .+?)\.?$", line)
    assert found is not None, line
    words = shlex.split(found[1])
    assert Requirement(words[-1]).extras == {"bitsandbytes"}
    check_requirements(words[2:])
