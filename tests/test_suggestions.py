"""A name that nobody knows is answered with the one that was meant, whoever asks for it."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from processes import printed
from toys import arguments, inner, llama, same_weights, train, weights

import anyoptim
from anyoptim.building.records import record_of
from anyoptim.errors import closest
from anyoptim.names.registry import known_names

TYPOS = {
    "apolo": "apollo_adamw",
    "apllo": "apollo_mini",
    "apolo_adamw": "apollo_adamw",
    "apollo-min": "apollo_mini",
    "adamv": "adamw",
    "adamw_trch": "adamw_torch",
    "adamw_torch_fusd": "adamw_torch_fused",
    "adam_w": "adamw",
    "adamww": "adamw",
    "moun": "muon",
    "muno": "muon",
    "lin": "lion",
    "loin": "lion",
    "shedule_free": "schedule_free",
    "schedul_free_adamw": "schedule_free_adamw",
    "schedulefree_adamw": "schedule_free_adamw",
    "prodgy": "prodigy",
    "prodigi": "prodigy",
    "adafacter": "adafactor",
    "adfactor": "adafactor",
    "galor_adamw": "galore_adamw",
    "galore": "galore_adamw",
    "adamw8bit": "adamw_8bit",
    "adamw_8_bit": "adamw_8bit",
    "adamw_bnb8bit": "adamw_bnb_8bit",
    "lion8bit": "lion_8bit",
    "paged_adam": "paged_adamw_8bit",
    "grokadam": "grokadamw",
    "grok_adamw": "grokadamw",
    "adalom": "adalomo",
    "lomoo": "lomo",
    "sopha": "sophia",
    "soaap": "soap",
    "shampo": "shampoo",
    "sdg": "sgd",
    "rmspropp": "rmsprop",
    "stabel_adamw": "stable_adamw",
    "adn": "adan",
    "timm/lam": "timm/lamb",
    "timm/adamww": "timm/adamw",
    "fused_adamw": "timm/fusedadamw",
}


@pytest.mark.parametrize(("wrong", "meant"), TYPOS.items())
def test_what_was_meant_is_offered(wrong: str, meant: str) -> None:
    with pytest.raises(anyoptim.UnknownOptimizerError, match="Did you mean") as caught:
        anyoptim.optimizer_info(wrong)
    assert repr(meant) in str(caught.value)


@pytest.mark.parametrize("wrong", ["xyzzy", "something_else_entirely", "q", "", "*"])
def test_nothing_is_offered_for_what_is_close_to_nothing(wrong: str) -> None:
    assert closest(wrong, known_names()) == []


def test_one_slip_in_any_name_is_forgiven() -> None:
    """Of each name with a letter left out, changed or swapped; some slips make another name."""
    chance = random.Random(0)
    names = known_names()
    found = tried = 0
    for name in names:
        at = chance.randrange(len(name) - 1)
        head, tail = name[:at], name[at + 1 :]
        wrong = chance.choice(
            [head + tail, head + chance.choice("abcdefgh_") + tail, head + tail[0] + name[at] + tail[1:]]
        )
        if wrong not in names:
            tried += 1
            found += name in closest(wrong, names)[:3]
    assert tried > 400
    assert found / tried >= 0.95, f"{found} of {tried}"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["list", "--package", "bitsandbyte"], "'bitsandbytes'"),
        (["list", "apolo"], "'apollo_mini'"),
        (["plan", "apollo_adamw", "--model", "tiny-llama", "--optim-args", "rnak=4"], "'rank'"),
        (["plan", "apollo_adamw", "--model", "tiny-llama", "--optim-args", "rnak"], "'rank'"),
        (["plan", "apollo_adamw", "--model", "tiny-llama", "--target-modules", "q_porj"], "'.*q_proj'"),
        (["plan", "adamw", "--model", "tinyllama"], "'tiny-llama'"),
        (["compare", "adamw", "--task", "byts"], "'bytes'"),
        (["check", "adamw", "--check", "memry"], "'memory'"),
    ],
)
def test_so_is_everything_else_that_has_a_name(words: list[str], meant: str) -> None:
    message = printed(*words, code=1)
    assert f"Did you mean {meant}" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["pln"], "Did you mean 'plan'"),
        (["recomend", "--model", "x"], "Did you mean 'recommend'"),
        (["recommend", "--memry", "24GiB"], "Did you mean '--memory'"),
        (["list", "--packge", "timm"], "Did you mean '--package'"),
        (["plan", "adamw", "--modle", "tiny-llama"], "Did you mean '--model'"),
        (["--versoin"], "Did you mean '--version'"),
    ],
)
def test_commands_and_options_too(words: list[str], meant: str) -> None:
    message = printed(*words, code=2)
    assert meant in message
    assert message.startswith("error: ") and len(message.splitlines()) == 1


def test_only_an_error_imports_what_compares_words() -> None:
    program = "import sys, anyoptim; anyoptim.optimizer_info('adamw'); assert 'rapidfuzz' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


# ---------------------------------------------------------------- the commonest name


def test_adamw_is_torchs() -> None:
    assert anyoptim.optimizer_info("adamw").name == "adamw_torch"
    assert anyoptim.optimizer_info("AdamW").name == "adamw_torch"
    for package in ("timm", "heavyball", "optimi", "bitsandbytes", "pytorch_optimizer"):
        assert anyoptim.optimizer_info(f"{package}/adamw").name.startswith((f"{package}/", "stable_adamw"))


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
def test_the_trainer_trains_adamw_as_adamw_torch(tmp_path: Path) -> None:
    fields = {"optim_args": "eps=1e-7", "learning_rate": 1e-3, "weight_decay": 0.1, "adam_beta2": 0.95, "max_steps": 3}
    trained = {}
    for name in ("adamw", "adamw_torch"):
        trainer = train(llama(), arguments(tmp_path / name, optim=name, **fields))
        record = record_of(trainer.optimizer)
        assert record is not None and record.writer.name == "adamw_torch"
        trained[name] = trainer
    left, right = trained.values()
    assert type(inner(left.optimizer)) is type(inner(right.optimizer))
    assert same_weights(weights(left.model), weights(right.model))
