"""``--model``: a file, a preset, an architecture, a model in the Hub's cache; anything else is answered."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import printed
from toys import TINY_LLAMA
from transformers import CONFIG_MAPPING, GPT2Config, T5Config

import anyoptim
from anyoptim.cli.parameters import complete_model
from anyoptim.integrations.models import load_config, make_model, meta_model
from anyoptim.integrations.presets import PRESETS, architectures


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "bert", "xlm-roberta"])
def test_an_architecture_has_its_default_sizes(name: str) -> None:
    assert load_config(name).to_dict() == CONFIG_MAPPING[name]().to_dict()


def test_gpt2_has_the_parameters_that_everybody_knows() -> None:
    planned = anyoptim.plan("adamw", meta_model("gpt2", "bf16"))
    assert planned.routing is not None
    assert sum(each.place.numel for each in planned.routing.routes) == 124_439_808


@pytest.mark.parametrize("config", [GPT2Config(n_layer=1), T5Config(num_layers=1)])
def test_what_is_tied_is_tied_on_the_meta_device_too(config: Any) -> None:
    real, meta = make_model(config), make_model(config, device="meta")
    assert [name for name, _ in meta.named_parameters()] == [name for name, _ in real.named_parameters()]


def test_the_architectures_that_are_offered_are_those_of_transformers() -> None:
    assert set(architectures()) == set(CONFIG_MAPPING)


def test_completion_offers_presets_and_architectures() -> None:
    assert complete_model("llama-7") == ["llama-7b", "llama-70b"]
    assert {"mixtral", "mistral"} <= {*complete_model("mi")}
    assert {*PRESETS, "gpt2"} <= {*complete_model("")}


def test_completion_imports_neither_torch_nor_transformers() -> None:
    program = (
        "import sys; from anyoptim.cli.parameters import complete_model; assert complete_model('gpt2');"
        "assert not {'torch', 'transformers'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("variable", ["HF_HOME", pytest.param("HF_HUB_CACHE", marks=pytest.mark.slow)])
def test_a_model_in_the_hubs_cache_needs_no_network(variable: str, tmp_path: Path) -> None:
    hub = tmp_path / "hub" if variable == "HF_HOME" else tmp_path
    model = hub / "models--someone--small-llama"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    TINY_LLAMA.save_pretrained(model / "snapshots" / ("0" * 40))
    program = (
        "import socket, sys\n"
        "def refuse(*_):\n    raise AssertionError('no network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from anyoptim.errors import OptimError\n"
        "from anyoptim.integrations.models import load_config\n"
        "print(load_config('someone/small-llama').to_json_string(use_diff=False))\n"
        "try:\n    load_config('someone/smal-llama')\n"
        "except OptimError as error:\n    print(error, file=sys.stderr)\n"
    )
    environment = {each: value for each, value in os.environ.items() if not each.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, variable: str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout)["hidden_size"] == TINY_LLAMA.hidden_size, done.stderr
    assert "Did you mean 'someone/small-llama'?" in done.stderr
    assert done.stderr.endswith("run: hf download someone/smal-llama config.json\n")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("tiny-lama", "Did you mean 'tiny-llama'"),
        ("mixtrl", "Did you mean 'mixtral'"),
        ("nothing like it", "hf download ORGANISATION/NAME config.json"),
        ("org/[red]x[/red]", "hf download ORGANISATION/NAME config.json"),
        ("", "holds no config.json"),
        ("no/such/config.json", "give a config.json"),
    ],
)
def test_anything_else_is_one_sentence(source: str, sentence: str, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(anyoptim.OptimError) as caught:
        load_config(source)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_holds_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(anyoptim.OptimError, match=r"'empty' holds no config\.json"):
        load_config("empty")
    assert load_config("gpt2").model_type == "gpt2"


def test_a_configuration_runs_no_code_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')\n")
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    with pytest.raises(anyoptim.OptimError, match="holds no transformers configuration"):
        load_config(str(tmp_path))


def test_sizes_that_do_not_fit_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_embd": 10, "n_head": 3}')
    message = printed("plan", "adamw", "--model", tmp_path, code=1)
    assert "cannot build the model of GPT2Config: ValueError: `embed_dim` must be divisible" in message
    assert len(message.splitlines()) == 1


CHUNKS = 40


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_architecture_is_planned_or_refused(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    planned = 0
    names = architectures()[chunk::CHUNKS]
    for name in names:
        try:
            footprint = anyoptim.plan("adamw_torch", meta_model(name, "bf16")).footprint()
        except anyoptim.OptimError as error:
            assert "\n" not in str(error), name
            assert "no network" not in str(error), name
        else:
            assert footprint.weights > 0, name
            planned += 1
    assert planned > len(names) // 3
