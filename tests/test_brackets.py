"""What is not ours comes out as it was given: brackets are no markup, colons no emoji, in every command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import anyoptim
from anyoptim.cli import app

TEXTS = ("[red]x[/red]", "[/]", "[bold]", "anyoptim[bitsandbytes]", "[link]y")
Say = Callable[..., str]

COMMANDS = [
    ("{}",),
    ("list", "{}"),
    ("list", "{}", "--json"),
    ("list", "--package", "{}"),
    ("list", "--{}"),
    ("info", "{}"),
    ("plan", "{}", "--model", "tiny-llama"),
    ("plan", "sgd", "--model", "{}"),
    ("plan", "sgd", "--model", "tiny-llama", "--optim-args", "{}=1"),
    ("plan", "sgd", "--model", "tiny-llama", "--optim-args", "momentum='{}'"),
    ("plan", "apollo_mini", "--model", "tiny-llama", "--target-modules", "{}"),
    ("plan", "sgd", "--model", "tiny-llama", "--dtype", "{}"),
    ("plan", "sgd", "--model", "tiny-llama", "--ranks", "2", "--sharding", "{}"),
    ("recommend", "--model", "{}", "--memory", "1GiB"),
    ("recommend", "--model", "tiny-llama", "--memory", "{}"),
    ("compare", "{}"),
    ("compare", "sgd", "--task", "{}"),
    ("compare", "sgd", "--lr", "{}"),
    ("compare", "sgd", "--optim-args", "{}"),
    ("demo", "--optim", "{}"),
    ("check", "{}"),
    ("check", "sgd", "--check", "{}"),
    ("check", "sgd", "--optim-args", "{}=1", "--check", "builds"),
    ("run", "{}"),
    ("run", "-m", "{}"),
]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Say:
    """Run the command in this process; all that it writes."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["anyoptim", *words])
        monkeypatch.setattr(sys, "path", [*sys.path])
        with pytest.raises(SystemExit):
            app.main()
        written = capsys.readouterr()
        return written.out + written.err

    return run


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_what_is_given_comes_out(words: tuple[str, ...], say: Say) -> None:
    for text in TEXTS:
        answer = say(*(word.format(text) for word in words))
        assert text in answer
        assert "MarkupError" not in answer and "Traceback" not in answer


@pytest.mark.usefixtures("restored_registry")
@pytest.mark.parametrize("text", [*TEXTS, ":smile:"])
def test_what_a_package_says_of_itself_comes_out(text: str, say: Say) -> None:
    lacking = anyoptim.Implementation("upstream", "no_such_module:X", (), package=text, licence=text, extra="bracketed")
    name = f"mine_{text}".replace(":", "")
    anyoptim.register(anyoptim.OptimizerSpec(name, f"made by {text}", (lacking,), paper=text))
    for words in (("list", "mine_*"), ("info", name)):
        answer = say(*words)
        assert f"made by {text}" in answer
        assert answer.count(text) >= 3
    assert "pip install 'anyoptim[bracketed]'" in say("info", name)
    for words in (("plan", name, "--model", "tiny-llama"), ("check", name), ("doctor",)):
        assert "pip install 'anyoptim[bracketed]'" in say(*words)


def test_patterns_come_out_in_a_plan(say: Say) -> None:
    arguments = (
        "--optim-args",
        "[qk]_proj@lr=1e-3",
        "--target-modules",
        ".*[qk]_proj",
        "--target-modules",
        ".*[v]_proj",
    )
    answer = say("plan", "apollo_mini", "--model", "tiny-llama", *arguments)
    assert ".*[qk]_proj" in answer and ".*[v]_proj" in answer
    assert ".*[qk]_proj" in str(anyoptim.plan("sgd", None, groups=[{"match": ".*[qk]_proj", "lr": 1e-3}]))


@pytest.mark.parametrize("text", TEXTS)
def test_what_nobody_thought_of_comes_out(text: str, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr("anyoptim.integrations.models.load_config", fail)
    assert say("plan", "sgd", "--model", "tiny-llama") == f"error: RuntimeError: {text} (--debug shows where)\n"
