"""A rate from one optimizer to another: measured updates, what is proposed, and the command that says it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import command, printed
from toys import TINY_LLAMA, data, llama

import anyoptim
from anyoptim.comparing.ratios import deciding, deciding_fallback, ratio
from anyoptim.comparing.subjects import MOST, subject
from anyoptim.comparing.tasks import Task
from anyoptim.comparing.updates import Trial, norm, try_rate
from anyoptim.planning.suggestions import same_place

TASK = """
import torch
from toys import data, llama

def make():
    return llama, torch.utils.data.Subset(data(), range(64)), None
"""
STEPS = 10


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "config.json"
    TINY_LLAMA.to_json_file(path)
    return path


def on_toys() -> Task:
    return Task("toys", llama_with_any_seed, data(), None, batch_size=8)


def llama_with_any_seed() -> torch.nn.Module:
    return llama(torch.initial_seed())


def trial(name: str, rate: float, **settings: Any) -> Trial:
    return try_rate(name, rate, on_toys(), steps=STEPS, **settings)


def translated(source: str, target: str, lr: float, **settings: Any) -> anyoptim.Translation:
    return anyoptim.translate(source, target, lr=lr, task=on_toys(), steps=STEPS, seeds=1, **settings)


# ---------------------------------------------------------------- sizes of updates


def test_the_norm_of_a_matrix_a_stack_and_a_vector() -> None:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(40, 12, generator=generator)
    largest = [float(torch.linalg.matrix_norm(factor * matrix, 2)) for factor in (1, 2, 5)]
    assert norm(matrix) == pytest.approx(largest[0], rel=0.02)
    assert norm(matrix.T) == pytest.approx(largest[0], rel=0.02)
    assert norm(torch.stack([matrix, 5 * matrix, 2 * matrix])) == pytest.approx(largest[1], rel=0.02)
    assert norm(torch.full((3,), -2.0)) == 2.0
    assert norm(torch.zeros(3, 4)) == 0.0


def test_what_is_measured_is_the_change_over_windows_of_steps() -> None:
    """Three windows of three steps after the warmup: signs times the rate go three times the rate at most."""
    found = trial("signsgd", 1e-3)
    assert len(found.losses) == STEPS
    for each in found.sizes:
        assert len(each.moved_rms) == len(each.moved_norm) == 3
        assert 0 < max(each.moved_rms) < 3.03e-3
    assert max(max(each.moved_rms) for each in found.sizes) > 2e-3


def test_updates_of_sgd_are_as_large_as_its_rate() -> None:
    first, second = trial("sgd", 1e-4), trial("sgd", 2e-4)
    found = ratio([first], [second], deciding(first))
    assert found.middle == pytest.approx(2, rel=0.02)
    assert found.low == pytest.approx(2, rel=0.1) and found.high == pytest.approx(2, rel=0.1)


def test_parameters_that_decide() -> None:
    hybrid, plain = trial("muon", 1e-3), trial("sgd", 1e-3)
    hidden = {each.name for each in plain.sizes if each.role == "hidden matrix"}
    assert hidden and {each.name for each in filter(deciding(plain), plain.sizes)} == hidden
    assert {each.name for each in filter(deciding(hybrid), hybrid.sizes)} == hidden
    fallback = deciding_fallback(hybrid)
    assert fallback is not None and deciding_fallback(plain) is None
    assert {str(each.role) for each in filter(fallback, hybrid.sizes)} == {"embedding", "output head"}


# ---------------------------------------------------------------- what is proposed


@pytest.mark.parametrize("name", ["adamw_torch", "sgd", "muon"])
def test_a_name_to_itself_is_the_same_rate(name: str) -> None:
    found = translated(name, name, 2e-3, optim_args={"muon": "fallback_lr=1e-3"})
    assert found.rate == 2e-3
    assert all(each.ratio.middle == pytest.approx(1, rel=1e-6) for each in found.moved)


def test_there_and_back() -> None:
    there = translated("adamw_torch", "lion", 1e-3)
    back = translated("lion", "adamw_torch", there.rate)
    assert there.low <= there.rate <= there.high < 1e-3
    spread = there.high / there.low * back.high / back.low
    assert 1e-3 / spread <= back.rate <= 1e-3 * spread
    assert back.rate == pytest.approx(1e-3, rel=0.3)


def test_decay_and_betas() -> None:
    found = translated("adamw_torch", "adamw_torch", 1e-3, weight_decay=0.1, betas=(0.8, 0.95))
    assert found.weight_decay == pytest.approx(0.1, rel=0.1) and found.betas == (0.8, 0.95)
    assert '"adam_beta1": 0.8' in json.dumps(dict(found.arguments)) and "weight_decay=0.1" in found.line
    other = translated("adamw_torch", "lion", 1e-3, weight_decay=0.1, betas=(0.8, 0.95))
    assert other.betas is None and any("mean something else" in note for note in other.notes)
    assert other.weight_decay is not None
    assert other.rate * other.weight_decay == pytest.approx(1e-4, rel=0.1)


def test_where_a_rule_of_thumb_does_better_it_is_taken() -> None:
    found = translated("adamw_torch", "sgd", 1e-3)
    specs = anyoptim.optimizer_info("adamw_torch"), anyoptim.optimizer_info("sgd")
    assert (found.method, found.rate) == ("rule", same_place(1e-3, *specs))
    other = translated("adamw_torch", "lion", 1e-3)
    assert other.method == "measured" and any("arXiv 2302.06675" in note for note in other.notes)


def test_what_is_measured_beyond_the_usual_range_ends_there() -> None:
    spec = anyoptim.optimizer_info("adamw_torch")
    assert spec.usual_lr is not None
    top = spec.usual_lr[1]
    inside = translated("adamw_torch", "lookahead(adamw_torch)", top / 10)
    assert inside.method == "measured" and inside.rate > 1.2 * top / 10
    end = translated("adamw_torch", "lookahead(adamw_torch)", top)
    assert (end.method, end.rate) == ("range", top) and end.high > top
    assert any("as far at lr=" in note for note in end.notes)
    # as far above it as the known one
    beyond = translated("adamw_torch", "lookahead(adamw_torch)", 2 * top)
    assert (beyond.method, beyond.rate) == ("range", 2 * top)
    assert "lr=0.006 is above what is usual for adamw_torch (0.003)" in beyond.notes[0]


def test_a_rate_that_stays_is_half_of_one_that_falls() -> None:
    there = translated("adamw_torch", "schedule_free_adamw", 1e-3)
    (hidden,) = (each for each in there.moved if each.role == "hidden matrix")
    back = translated("schedule_free_adamw", "adamw_torch", there.rate)
    assert hidden.ratio.middle == pytest.approx(1, rel=0.3)
    assert any("counts 0.5 times" in note for note in there.notes)
    assert any("counts 2 times" in note for note in back.notes)
    # what is tried is not halved
    assert back.rate == pytest.approx(1e-3, rel=0.6)


@pytest.mark.parametrize("name", ["prodigy", "dadapt_adam"])
def test_what_finds_its_rate_itself(name: str) -> None:
    found = anyoptim.translate("adamw_torch", name, lr=1e-3)
    assert (found.rate, found.method) == (1.0, "itself")
    assert "leave lr=1" in found.why
    with pytest.raises(anyoptim.OptimError, match="finds its rate itself: lr=1 says nothing"):
        anyoptim.translate(name, "adamw_torch", lr=1.0)


def test_a_model_that_is_too_large() -> None:
    with pytest.raises(anyoptim.OptimError, match="million parameters beside its vocabulary, too many"):
        subject("llama-7b", None)
    assert MOST < 6e9


# ---------------------------------------------------------------- the command


def test_json_of_a_hybrid(config: Path) -> None:
    asked = ["--lr", "1e-3", "--weight-decay", "0.1", "--model", config, "--steps", "10", "--seeds", "1", "--json"]
    done = command("translate", "adamw_torch", "muon", *asked)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["method"] == "measured"
    assert found["low"] < found["rate"] < found["high"]
    # its fallback is AdamW
    assert found["fallback_rate"] == pytest.approx(1e-3, rel=0.3)
    assert f"fallback_lr={found['fallback_rate']:g}" in found["line"]
    assert found["weight_decay"] * found["rate"] == pytest.approx(1e-4, rel=0.1)
    roles = {each["role"]: each for each in found["moved"]}
    assert set(roles) == {"embedding", "hidden matrix", "norm", "output head"}
    assert roles["norm"]["source_norm"] is None and roles["hidden matrix"]["source_norm"] > 0
    assert math.log(roles["hidden matrix"]["ratio"]["middle"]) == pytest.approx(0, abs=0.5)
    assert "adamw_torch lr 0.001 seed 0: 10 steps" in done.stderr


def test_a_users_task_in_words(tmp_path: Path) -> None:
    (tmp_path / "mytask.py").write_text(TASK)
    asked = ["--lr", "1e-3", "--task", "mytask:make", "--steps", "10", "--seeds", "1", "--optim-args", "sgd:momentum=0"]
    done = command("translate", "adamw_torch", "sgd", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith('optim="sgd", optim_args="momentum=0", learning_rate=')
    assert any(line.startswith("hidden matrix") for line in rest)
    assert any(line.startswith("adamw_torch lr 0.001 is sgd lr ") for line in rest)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["adamw_torch", "lionn", "--lr", "1e-3"], 1, "Did you mean 'lion'"),
        (["adamw_torch", "lion"], 2, "Missing option '--lr'"),
        (["adamw_torch", "lion", "--lr", "0"], 1, "lr=0 is no learning rate to translate"),
        (["adamw_torch", "lion", "--lr", "nan"], 1, "lr=nan is no learning rate to translate"),
        (["adamw_torch", "lion", "--lr", "1e-3", "--betas", "0.9"], 1, "is no pair of numbers"),
        (["adamw_torch", "lion", "--lr", "1e-3", "--task", "byte"], 1, "Did you mean 'bytes'"),
        (["adamw_torch", "lion", "--lr", "1e-3", "--task", "m:f", "--model", "gpt2"], 1, "not both"),
        (["adamw_torch", "lion", "--lr", "1e-3", "--steps", "2"], 2, "--steps"),
        (["adamw_torch", "lion", "--lr", "1e-3", "--optim-args", "momentum=1"], 1, "has no optimizer"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], code: int, sentence: str) -> None:
    message = printed("translate", *words, code=code)
    assert sentence in message


def test_a_rate_at_which_the_known_one_diverges() -> None:
    with pytest.raises(anyoptim.OptimError, match=r"sgd at lr 1e\+30: the loss is no number after \d+ steps"):
        trial("sgd", 1e30)
