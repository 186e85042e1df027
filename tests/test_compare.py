"""A comparison: real runs, kept one by one, and a report that a real browser shows."""

from __future__ import annotations

import io
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import browser
from processes import command, printed

import anyoptim
from anyoptim.comparing.progress import EVERY, in_lines
from anyoptim.comparing.race import Entry, Run
from anyoptim.comparing.results import Results, standings
from anyoptim.comparing.task_loading import load_task
from anyoptim.comparing.tasks import TASKS, Sums
from anyoptim.comparing.wanted import entries
from anyoptim.planning.suggestions import usual_rates

TASK = """
import os, signal
import torch
from toys import data, llama

def make():
    return llama, torch.utils.data.Subset(data(), range(64)), None, torch.utils.data.Subset(data(), range(64, 96))

def three():
    return llama(), torch.utils.data.Subset(data(), range(64)), None

def wrong():
    return llama()

class Interrupting(torch.utils.data.Dataset):
    read = 0

    def __len__(self):
        return 64

    def __getitem__(self, index):
        # Ctrl-C, once, in the middle of the second run
        Interrupting.read += 1
        if Interrupting.read == 72 and not os.path.exists("interrupted"):
            open("interrupted", "w").close()
            os.kill(os.getpid(), signal.SIGINT)
        return data()[index]

def interrupted():
    return llama, Interrupting(), None
"""


def runs_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def look_at(page: Path, rows: int) -> str:
    """Open a report in Chromium, and return its text."""
    with browser() as looked:
        looked.page.goto(page.as_uri())
        assert looked.page.locator("tbody tr").count() == rows
        widths = looked.page.locator("img").evaluate_all("all => all.map(one => one.naturalWidth)")
        assert widths and min(widths) > 100
        assert looked.complaints == []
        assert {url.partition(":")[0] for url in looked.requests} <= {"file", "data"}
        assert looked.page.title()
        return looked.page.inner_text("body")


def test_rates_and_seeds_of_a_users_task_with_a_report(tmp_path: Path) -> None:
    (tmp_path / "mytask.py").write_text(TASK)
    asked = ["--lr", "1e-3,1e9", "--seeds", "2", "--steps", "3", "--optim-args", "sgd:momentum=0.5"]
    words = ["compare", "sgd", "--task", "mytask:make", *asked, "--output", "out"]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = runs_in(tmp_path / "out")
    assert len(runs) == 8
    assert {(run["entry"]["name"], run["entry"]["optim_args"]) for run in runs} == {
        ("adamw_torch", ""),
        ("sgd", "momentum=0.5"),
    }
    failed = [run for run in runs if run["error"]]
    assert failed and all(run["entry"]["learning_rate"] == 1e9 for run in failed)
    # the first loss that is no number ends a run
    assert {run["error"] for run in failed if "diverged" in run["error"]} == {"diverged at step 2"}
    assert all(len(run["losses"]) == len(run["seconds"]) == 3 for run in runs if not run["error"])
    assert "1e+09" in done.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert "8 runs through the Trainer" in page and "Runs that ended early" in page
    assert all((tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG") for name in ("losses.png", "rates.png"))
    # the same again trains nothing
    began = (tmp_path / "out" / "results.jsonl").stat().st_mtime_ns
    assert len(json.loads(command(*words, "--json", cwd=tmp_path).stdout)) == 8
    assert (tmp_path / "out" / "results.jsonl").stat().st_mtime_ns == began


def test_an_interrupt_leaves_what_is_there_and_the_same_command_goes_on(tmp_path: Path) -> None:
    (tmp_path / "mytask.py").write_text(TASK)
    words = ["compare", "sgd", "--task", "mytask:interrupted", "--lr", "1e-3,1e-2", "--steps", "3", "--output", "out"]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 130, done.stderr
    (kept,) = runs_in(tmp_path / "out")
    assert re.search(r"Interrupted: 1 runs are kept, the same command goes on with\s+the other 3", done.stdout)
    assert (tmp_path / "out" / "report.html").exists()
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 of them are in" in done.stdout
    assert runs_in(tmp_path / "out")[0] == kept
    assert len(runs_in(tmp_path / "out")) == 4


def test_lines_come_as_time_passes_and_not_by_steps() -> None:
    assert EVERY <= 10
    said = io.StringIO()

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + 30
        while text not in said.getvalue() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert text in said.getvalue()

    with in_lines("sgd   lr 0.1", 300, file=said, every=0.001) as work:
        wait_for("sgd lr 0.1: step 0 of 300, 0 s\n")  # while nobody calls
        work.step(120, 2.91)
        wait_for("sgd lr 0.1: step 120 of 300, loss 2.910, 0 s\n")
        work.end("final loss 2.500")
    lines = said.getvalue().splitlines()
    assert (lines[0], lines[-1]) == ("sgd lr 0.1: 300 steps", "sgd lr 0.1: final loss 2.500, 0 s")
    with in_lines("seldom", file=said, every=1000):
        pass
    assert said.getvalue().splitlines() == lines


def test_where_there_is_no_terminal_stderr_tells_of_each_run(tmp_path: Path) -> None:
    words = ["compare", "sgd", "--task", "modular-addition", "--steps", "2", "--json", "--output", str(tmp_path)]
    done = command(*words)
    assert done.returncode == 0, done.stderr
    losses = {run["entry"]["name"]: run["heldout_loss"] for run in json.loads(done.stdout)}
    lines = done.stderr.splitlines()
    for name, loss in losses.items():
        began = lines.index(f"{name}: 2 steps")
        assert any(line.startswith(f"{name}: final loss {loss:.3f}, ") for line in lines[began:])


@pytest.mark.slow
def test_modular_addition_measures_the_held_out_accuracy(tmp_path: Path) -> None:
    printed("compare", "grokadamw", "--task", "modular-addition", "--steps", "4", "--output", str(tmp_path))
    runs = runs_in(tmp_path)
    assert [[step for step, _ in run["accuracies"]] for run in runs] == [[1, 2, 3, 4]] * 2
    assert all(0 <= share <= 1 for run in runs for _, share in run["accuracies"])
    assert (tmp_path / "accuracy.png").exists()
    assert "held-out accuracy" in look_at(tmp_path / "report.html", rows=2)


def test_the_sums_are_right_and_their_accuracy_is_that_of_the_answer() -> None:
    task = TASKS["modular-addition"]()
    assert isinstance(task.train, Sums) and isinstance(task.heldout, Sums)
    tokens = torch.cat([task.train.tokens, task.heldout.tokens])
    assert len(tokens.unique(dim=0)) == 59 * 59
    assert torch.equal(tokens[:, 3], (tokens[:, 0] + tokens[:, 1]) % 59)
    # only the answer is to be predicted
    assert bool((task.train.labels[:, :3] == -100).all()) and torch.equal(
        task.train.labels[:, 3], task.train.tokens[:, 3]
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["no_such"], "No optimizer is called 'no_such'"),
        (["sgd", "--task", "byte"], "Did you mean 'bytes'"),
        (["sgd", "--task", "no_such:make"], "cannot be loaded: there is no module 'no_such'"),
        (["sgd", "--lr", "fast"], "no list of positive rates"),
        (["sgd", "--lr", "0"], "no list of positive rates"),
        (["sgd", "--optim-args", "momentum=1"], "has no optimizer"),
        (["sgd", "--optim-args", "sgdd:momentum=1"], "Did you mean 'sgd'"),
    ],
)
def test_mistakes_are_said_before_anything_runs(words: list[str], sentence: str, tmp_path: Path) -> None:
    message = printed("compare", *words, "--output", str(tmp_path / "out"), code=1)
    assert sentence in message
    assert not (tmp_path / "out").exists()


def test_a_users_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "task_of_mine.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    task = load_task("task_of_mine:three")
    assert task.heldout is None
    first, second = task.model(), task.model()
    assert first is not second
    assert load_task("task_of_mine:make").heldout is not None
    with pytest.raises(anyoptim.OptimError, match="it has to return"):
        load_task("task_of_mine:wrong")


def entry(**changed: Any) -> Entry:
    return replace(Entry("bytes", "sgd", "", 0.1, 0, 10, 16, {"torch": "1"}), **changed)


def run(of: Entry, heldout: float | None, step: float = 1.0, state: int = 0) -> Run:
    error = "" if heldout is not None else "diverged"
    return Run(of, "upstream", "torch", (2.0, 1.0), (0.1, 0.2), heldout, (), step, state, error)


def test_wanted_runs() -> None:
    task = TASKS["bytes"]()
    auto = entries(["sgd", "SGD"], task, rates="auto", seeds=2, steps=3, optim_args={})
    assert [each.learning_rate for each in auto[::2]] == list(usual_rates(anyoptim.optimizer_info("sgd")))
    assert [each.seed for each in auto] == [0, 1] * 3
    (low_rank,) = entries(
        ["apollo_adamw"], task, rates="high", seeds=1, steps=3, optim_args={"apollo_adamw": "scale=2"}
    )
    assert low_rank.optim_args == "scale=2,rank=32"


def test_results_survive_a_cut_line_and_tell_settings_apart(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    results = Results(path)
    results.add(run(entry(), 1.5))
    results.add(run(entry(seed=1), None))
    with path.open("a") as file:
        file.write('{"entry": {"task": "by')
    again = Results(path)
    assert again.find(entry()) == run(entry(), 1.5)
    assert again.find(entry(seed=1)) == run(entry(seed=1), None)
    for changed in ({"steps": 11}, {"learning_rate": 0.2}, {"versions": {"torch": "2"}}, {"optim_args": "momentum=1"}):
        assert again.find(entry(**changed)) is None


def test_standings_take_the_best_whole_rate() -> None:
    adamw = [run(entry(name="adamw_torch", seed=seed), 1.0 + seed, step=2.0) for seed in range(2)]
    sgd = [
        run(entry(learning_rate=rate, seed=seed), loss)
        for rate, losses in {0.1: (3.0, 3.5), 1.0: (2.0, 2.5), 10.0: (0.5, None)}.items()
        for seed, loss in enumerate(losses)
    ]
    lost = [run(entry(name="lion"), None)]
    first, second, third = standings([*lost, *sgd, *adamw], "adamw_torch")
    assert (first.name, first.heldout) == ("adamw_torch", (1.5, 1.0, 2.0))
    assert (second.name, second.rate, second.heldout, second.relative_step) == ("sgd", 1.0, (2.25, 2.0, 2.5), 0.5)
    assert second.by_rate == {0.1: 3.25, 1.0: 2.25}
    assert (third.name, third.best, len(third.failures)) == ("lion", (), 1)


MISTAKEN = """
def make():
    return "model"

def nothing():
    pass

def pair():
    return 1, 2

def needs(size, *, depth, width=1, **more):
    pass

def breaks():
    raise RuntimeError("out of\\nluck")

number = 3
"""


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("mistaken:make", r"returned str; it has to return \(model, dataset, collator\)"),
        ("mistaken:nothing", "returned nothing; it has to return"),
        ("mistaken:pair", "returned a tuple of int, int; it has to return"),
        ("mistaken:needs", "needs size, depth, but is called with nothing; give its arguments defaults"),
        ("mistaken:breaks", "fails: RuntimeError: out of luck"),
        ("mistaken:mak", "has no function 'mak'. Did you mean 'make'"),
        ("mistaken:number", "has no function 'number'"),
        ("mistaken:", "has no function ''"),
        (":make", "cannot be loaded"),
        ("mistakn:make", "Did you mean 'mistaken'"),
        ("mistaken.py:make", r"without .py. Did you mean 'mistaken'"),
        ("broken:make", "cannot be loaded: SyntaxError"),
        ("lacking:make", "No module named 'no_such_package'. Install what it imports"),
    ],
)
def test_a_task_that_is_none_is_one_sentence(
    task: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mistaken.py").write_text(MISTAKEN)
    (tmp_path / "broken.py").write_text("def make(:\n")
    (tmp_path / "lacking.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(anyoptim.OptimError, match=sentence) as caught:
        load_task(task)
    assert "\n" not in str(caught.value)
