"""The doctor tells the truth about this machine, and about one where something is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from processes import printed

import anyoptim
from anyoptim.doctor import examine


def without(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys\n"
        f"sys.modules[{module!r}] = None\n"
        f"sys.argv = ['anyoptim', 'doctor', *{words!r}]\n"
        "from anyoptim.cli.app import main\n"
        "main()\n"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_the_command() -> None:
    answer = json.loads(printed("doctor", "--json"))
    assert answer["versions"]["torch"] == version("torch")
    assert answer["enable"] is None
    installed = {each["name"]: each["version"] for each in answer["packages"]}
    assert installed["timm"] == version("timm")
    assert installed["torchdistx"] is None
    elsewhere = [name for names in answer["elsewhere"].values() for name in names]
    assert answer["buildable"] + len(elsewhere) == len(anyoptim.list_optimizers())
    text = printed("doctor")
    assert "enable() fits this transformers" in text
    assert f"{answer['buildable']} names can be built here" in text


def test_what_is_said_to_be_buildable_is_built() -> None:
    found = examine()
    elsewhere = {name for names in found.elsewhere.values() for name in names}
    reasons = " ".join(found.elsewhere)
    assert "needs cuda" in reasons or torch.cuda.is_available()
    assert not {"adamw_torch", "adalomo", "muon", "timm/lamb"} & elsewhere
    assert {"adamw_torch_xla", "adamw_anyprecision", "sparse_adam"} <= elsewhere


def test_it_leaves_transformers_as_it_was() -> None:
    from transformers.training_args import OptimizerNames

    before = list(OptimizerNames)
    examine()
    assert list(OptimizerNames) == before


def test_without_transformers_it_says_what_to_install() -> None:
    done = without("transformers")
    assert done.returncode == 1
    assert "pip install 'anyoptim[transformers]'" in done.stdout
    assert "Traceback" not in done.stderr
    assert "anyoptim[transformers]" in json.loads(without("transformers", "--json").stdout)["enable"]


def test_without_torch_it_is_one_line() -> None:
    done = without("torch")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "pip install torch" in done.stderr


def test_a_transformers_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    monkeypatch.delattr(Trainer, "create_scheduler")
    found = examine()
    assert found.enable is not None and "does not fit transformers" in found.enable
    monkeypatch.undo()
    assert examine().enable is None
