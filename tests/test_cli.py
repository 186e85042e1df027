"""The command: every answer also as JSON, errors in one line, nothing heavy loaded before it is needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import command, new_python, printed
from toys import NAMES, TINY_LLAMA

from anyoptim.cli.output import print_columns
from anyoptim.names.registry import list_optimizers

SCRIPT = Path(sys.executable).parent / "anyoptim"


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (["-m", "anyoptim"], ["plan", "apollo_mini", "--model", "tiny-llama", "--target-modules", "attn"]),
        ([str(SCRIPT)], ["info", "apolo_adamw"]),
        ([str(SCRIPT)], ["list", "--no-such-option"]),
    ],
)
def test_a_real_start_says_what_these_tests_look_at(start: list[str], words: list[str]) -> None:
    """Its interpreter begins with nothing imported; ``command`` is forked from one that has it all."""
    real = subprocess.run([sys.executable, *start, *words], capture_output=True, text=True, check=False)
    forked = command(*words)
    assert (real.returncode, real.stdout, real.stderr) == (forked.returncode, forked.stdout, forked.stderr)


def test_list() -> None:
    text = printed("list")
    assert all(name in text for name in NAMES)
    everything = [each["name"] for each in json.loads(printed("list", "--json"))]
    assert everything == list_optimizers()
    assert [each["name"] for each in json.loads(printed("list", "schedule*", "--installed", "--json"))] == [
        name for name in everything if name.startswith("schedule")
    ]
    commercial = [each["name"] for each in json.loads(printed("list", "--commercial", "--json"))]
    assert set(everything) - set(commercial) == {"apollo_torch/apollo_adamw"}
    assert "Apache-2.0" in printed("list", "--package", "schedulefree")


@pytest.mark.parametrize("name", NAMES)
def test_info_in_this_process(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from anyoptim.cli.info import info_command as info

    info([name])
    assert name in capsys.readouterr().out
    info([name], as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert answer["hyperparameters"][0]["name"] == "lr"
    assert answer["implementations"][0]["installed"]


def test_list_by_licence() -> None:
    found = json.loads(printed("list", "--licence", "mit", "--json"))
    assert found and {each["licence"] for each in found} == {"MIT"}
    some = {each["licence"] for each in json.loads(printed("list", "--licence", "BSD*", "--json"))}
    assert some == {"BSD-2-Clause", "BSD-3-Clause"}
    wrong = printed("list", "--licence", "appache-2.0", code=1)
    assert "Did you mean 'Apache-2.0'?" in wrong and "BSD-2-Clause, BSD-3-Clause" in wrong
    assert "No optimizer matches 'apollo*' under MIT" in printed("list", "apollo*", "--licence", "MIT", code=1)


def test_two_names_side_by_side() -> None:
    lines = printed("info", "muon", "adamw").splitlines()
    cells = {re.split(r"\s{2,}", line)[0]: re.split(r"\s{2,}", line)[1:] for line in lines}
    assert lines[0].split() == ["muon", "adamw_torch"]
    assert cells["licence"] == ["Apache-2.0", "BSD-3-Clause"]
    assert cells["bytes of state each, tiny-llama"][1] == "8"
    assert cells["momentum"] == ["0.95", "-"] and cells["betas"] == ["-", "(0.9, 0.999)"]
    # what is the same comes after what differs
    assert lines.index(next(each for each in lines if each.startswith("lr "))) > lines.index(
        next(each for each in lines if each.startswith("betas"))
    )
    both = json.loads(printed("info", "muon", "adamw", "--json"))
    assert both == [json.loads(printed("info", each, "--json")) for each in ("muon", "adamw")]
    assert "Did you mean 'muon'" in printed("info", "adamw", "muom", code=1)
    assert "at most 4" in printed("info", "muon", "lion", "sgd", "adamw", "lamb", code=1)


def test_info() -> None:
    text = printed("info", "Schedule-Free-RAdam")
    assert "schedule_free_radamw" in text
    assert "arXiv 2405.15682" in text


def test_plan_of_a_preset() -> None:
    text = printed("plan", "apollo_adamw", "--model", "tiny-llama", "--optim-args", "rank=16", "--lr", "0.001")
    assert "model.layers.{0..3}.self_attn.q_proj.weight" in text
    assert "optimizer state" in text
    assert "rank" in text


def test_plan_of_a_config_file_and_a_folder(tmp_path: Path) -> None:
    TINY_LLAMA.save_pretrained(tmp_path)
    answers = []
    for source in (tmp_path, tmp_path / "config.json"):
        words = [
            "plan",
            "adamw_torch",
            "--model",
            str(source),
            "--weight-decay",
            "0.1",
            "--dtype",
            "bfloat16",
            "--json",
        ]
        answers.append(json.loads(printed(*words)))
    assert answers[0] == answers[1]
    assert answers[0]["hyperparameters"]["weight_decay"] == {"value": 0.1, "from": "TrainingArguments"}
    elements = sum(a * b for a, b in (((p["shape"] + [1])[:2]) for p in answers[0]["parameters"]))
    assert answers[0]["state_bytes"] == 4 * elements + 4 * len(answers[0]["parameters"])


def test_plan_with_several_target_patterns() -> None:
    words = ["plan", "apollo_mini", "--model", "tiny-llama", "--target-modules", "attn", "--target-modules", "mlp"]
    rules = {each["rule"] for each in json.loads(printed(*words, "--json"))["parameters"]}
    assert rules == {"attn", "mlp", "-"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["info", "apolo_adamw"], "Did you mean 'apollo_adamw'"),
        (["list", "nothing*"], "No optimizer matches"),
        (["plan", "sgd", "--model", "tiny-lama"], "Did you mean 'tiny-llama'"),
        (["plan", "sgd", "--model", "tiny-llama", "--optim-args", "momentun=1"], "Did you mean 'momentum'"),
        (["plan", "apollo_adamw", "--model", "tiny-llama", "--target-modules", ".*atn.*"], "matches no module"),
        (["plan", "sgd", "--model", "tiny-llama", "--dtype", "float99"], "must be a torch dtype"),
        (["demo", "--optim", "no_such"], "No optimizer is called 'no_such'"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(words: list[str], sentence: str) -> None:
    message = printed(*words, code=1)
    assert message.startswith("error: ")
    assert sentence in message
    assert "Traceback" not in message
    assert len(message.strip().splitlines()) == 1


def test_a_wrong_option_is_exit_code_2() -> None:
    assert "No such option" in printed("list", "--no-such-option", code=2)


@pytest.mark.parametrize("words", [["list"], ["info", "adamw_torch"], ["--help"]])
def test_list_and_info_load_neither_torch_nor_transformers(words: list[str]) -> None:
    program = (
        "import sys\n"
        f"sys.argv = ['anyoptim', *{words!r}]\n"
        "from anyoptim.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    new_python(program)


def test_a_piped_list_draws_nothing() -> None:
    program = (
        "import sys\n"
        "sys.argv = ['anyoptim', 'list']\n"
        "from anyoptim.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'rich.console', 'rich.table'} & set(sys.modules)\n"
    )
    lines = new_python(program).stdout.splitlines()
    assert len(lines) == 1 + len(list_optimizers())
    assert len({line.index(word) for line, word in zip(lines, ("package", "timm"), strict=False)}) == 1


def test_a_list_in_a_terminal_fits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as terminal, monkeypatch.context() as scope:
        scope.setattr(sys, "stdout", terminal)
        print_columns(("name", "summary"), [("one", "word " * 30), ("two", "[bold]")], dim=[False, True])
        terminal.flush()
        lines = os.read(leader, 10_000).decode().splitlines()
    plain = [re.sub(r"\x1b\[\d*m", "", line) for line in lines]
    assert plain[0].startswith("name") and plain[1].startswith("one") and plain[2].startswith("      word")
    assert max(map(len, plain)) <= 60
    assert plain[-1] == "two   [bold]" and lines[-1].startswith("\x1b[2m")


@pytest.mark.parametrize(("as_json", "printed_json"), [(False, ""), (True, "[]\n")])
def test_a_list_of_nothing_fails(as_json: bool, printed_json: str) -> None:
    done = command("list", "xyzzy*", *(["--json"] if as_json else []))
    assert (done.returncode, done.stdout) == (1, printed_json)
    assert "No optimizer matches 'xyzzy*'" in done.stderr


@pytest.mark.parametrize(
    ("missing", "words", "install"),
    [
        ("transformers", ["plan", "sgd", "--model", "tiny-llama"], "pip install 'anyoptim[transformers]'"),
        ("matplotlib", ["demo", "--optim", "sgd"], "pip install 'anyoptim[compare]'"),
    ],
)
def test_a_missing_package_is_one_line_before_anything_runs(missing: str, words: list[str], install: str) -> None:
    program = (
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        f"sys.argv = ['anyoptim', *{words!r}]\n"
        "from anyoptim.cli.app import main\n"
        "main()\n"
    )
    done = new_python(program, code=1)
    said = [line for line in done.stderr.splitlines() if "going on" not in line]  # a slow machine's
    assert said[0].startswith("error: ")
    assert install in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.trainer
def test_demo(tmp_path: Path) -> None:
    output = tmp_path / "results"
    text = printed("demo", "--steps", "3", "--optim", "sgd", "--optim", "adalomo", "--output", str(output))
    assert "adamw_torch" in text  # the baseline joins
    assert "adalomo" in text
    runs = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    assert [run["entry"]["name"] for run in runs] == ["adamw_torch", "sgd", "adalomo"]
    assert all(len(run["losses"]) == 3 for run in runs)
    assert (output / "losses.png").read_bytes().startswith(b"\x89PNG")


def test_demo_as_json(tmp_path: Path) -> None:
    words = ["demo", "--steps", "2", "--optim", "adamw_torch", "--output", str(tmp_path), "--json"]
    (run,) = json.loads(printed(*words))
    assert run["heldout_loss"] > 0
    assert run["state_bytes"] > 0


# ---------------------------------------------------------------- comforts

COMMANDS = ("list", "info", "plan", "recommend", "compare", "run", "check", "doctor", "demo")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str) -> None:
    text = printed(command, "--help")
    assert "Examples" in text
    assert f"anyoptim {command}" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["plna"], "Did you mean 'plan'"),
        (["list", "--packge", "timm"], "--package"),
        (["compare"], "Missing argument"),
        (["plan", "sgd"], "Missing option"),
        (["plan", "sgd", "--model", "tiny-llama", "--ranks", "many"], "as an integer"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(words: list[str], sentence: str) -> None:
    assert sentence in " ".join(printed(*words, code=2).split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["list", "--package", "tim"], "Did you mean 'timm'"),
        (["list", "adamw_trch"], "Did you mean 'adamw_torch'"),
        (["plan", "sgd", "--model", "tiny-llama", "--ranks", "2", "--sharding", "zero4"], "take one of ddp, fsdp2"),
        (["check", "sgd", "--check", "bilds"], "Did you mean 'builds'"),
    ],
)
def test_close_names_are_offered_for_what_is_no_optimizer_too(words: list[str], sentence: str) -> None:
    assert sentence in printed(*words, code=1)


@pytest.mark.parametrize("words", [["list"], ["info", "muon"], ["--help"], ["plan", "muon", "--model", "tiny-llama"]])
def test_piped_output_has_no_colours(words: list[str]) -> None:
    assert "\x1b" not in printed(*words)


@pytest.mark.parametrize("place", [0, 2])
def test_debug_shows_the_traceback(place: int) -> None:
    words = ["info", "no_such"]
    words.insert(place, "--debug")
    assert "Traceback" in printed(*words, code=1)


def test_an_unexpected_error_is_one_line_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": "wide"}')
    words = ["plan", "sgd", "--model", str(tmp_path)]
    message = printed(*words, code=1)
    assert message.startswith("error: ") and "Traceback" not in message
    assert "Traceback" in printed("--debug", *words, code=1)


def test_version() -> None:
    from anyoptim import __version__

    assert printed("--version").split() == ["anyoptim", __version__]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("anyoptim pl", {"plan"}),
        ("anyoptim info apollo", {"apollo_adamw", "apollo_mini", "apollo_adamw_layerwise"}),
        ("anyoptim plan sgd --model llama-7", {"llama-7b", "llama-70b"}),
        ("anyoptim plan sgd --model mixt", {"mixtral"}),
        ("anyoptim plan sgd --sharding z", {"zero1", "zero2", "zero3"}),
        ("anyoptim compare muonc", {"muonclip"}),
    ],
)
def test_completion(line: str, found: set[str]) -> None:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_ANYOPTIM_COMPLETE": "complete_bash"}
    done = subprocess.run([SCRIPT], env={**os.environ, **words}, capture_output=True, text=True, check=False)
    offered = set(done.stdout.split())
    assert found <= offered
    assert all(each.startswith(line.rsplit(maxsplit=1)[-1]) for each in offered)


INTERRUPTING = """
import os, signal
import torch

class Interrupting(torch.optim.SGD):
    \"\"\"Presses Ctrl-C when it is built for the third time.\"\"\"

    built = 0

    def __init__(self, params, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)
        Interrupting.built += 1
        if Interrupting.built == 3:
            os.kill(os.getpid(), signal.SIGINT)
"""


def test_an_interrupted_check_has_told_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(INTERRUPTING)
    done = command("check", "mine:Interrupting", "--json", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 130
    verdicts = json.loads(done.stdout)["verdicts"]
    assert verdicts[0]["check"] == "builds"
    assert len(verdicts) < 17
