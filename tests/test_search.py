"""The search for a learning rate: on curves whose lowest point is known, and through the real command line."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyoptim.comparing.race import Entry, Run
from anyoptim.comparing.search import RATES, place_of, rate_at, searched

STEPS = 100


class Curve:
    """Runs whose loss is known: a valley around a rate, failed above a limit."""

    def __init__(self, best: float, fails_from: float = math.inf) -> None:
        self.best, self.fails_from = best, fails_from
        self.runs: dict[Entry, Run] = {}

    def entry(self, rate: float, seed: int, steps: int) -> Entry:
        return Entry("curve", "sgd", "", rate, seed, steps, 1)

    def run(self, entry: Entry) -> None:
        rate = entry.learning_rate
        loss = None if rate >= self.fails_from else abs(math.log(rate / self.best))
        error = "diverged" if loss is None else ""
        self.runs[entry] = Run(entry, "torch", "torch", (), (), loss, (), 0.0, 0, error)

    def search(self, highest: float, *, late: bool = False) -> list[Entry]:
        done = []
        for entry in searched(self.entry, self.runs.get, highest, steps=STEPS, seeds=3, late=late):
            self.run(entry)
            done.append(entry)
        return done


@given(st.floats(-6, 3), st.floats(-4, 1))
def test_the_best_rate_has_a_whole_run_on_each_side_and_all_seeds(best: float, highest: float) -> None:
    curve = Curve(10**best)
    done = curve.search(10**highest)
    whole = {each.learning_rate for each in done if each.steps == STEPS}
    lowest = min(whole, key=lambda rate: abs(math.log(rate / curve.best)))
    assert min(whole) < lowest < max(whole)
    assert math.isclose(abs(math.log(lowest / curve.best)), 0, abs_tol=math.log(10) / 4 + 0.06)
    assert {each.seed for each in done if each.learning_rate == lowest and each.steps == STEPS} == {0, 1, 2}
    assert len({each.learning_rate for each in done if each.steps < STEPS}) >= RATES
    assert len(done) == len(set(done))


def test_where_understanding_comes_late_all_runs_are_whole() -> None:
    done = Curve(1.0).search(0.1, late=True)
    assert {each.steps for each in done} == {STEPS}
    assert len({each.learning_rate for each in done}) >= RATES
    assert {each.learning_rate for each in done if each.seed == 2} == {1.0}


def test_wrong_answers_count_where_there_are_answers() -> None:
    entry = Curve(1.0).entry(0.1, 0, STEPS)
    run = Run(entry, "torch", "torch", (), (), 4.0, ((50, 0.25), (100, 0.75)), 0.0, 0)
    assert run.score == 0.25 and replace(run, accuracies=()).score == 4.0
    assert replace(run, heldout_loss=None).score is None


def test_rates_that_fail_are_no_best_one() -> None:
    done = Curve(1.0, fails_from=0.2).search(0.1)
    assert {each.learning_rate for each in done if each.seed == 1} == {0.1}


def test_what_always_fails_ends_soon() -> None:
    assert len(Curve(1.0, fails_from=0.0).search(0.1)) <= RATES + 5


@pytest.mark.parametrize("rate", [1e-7, 3e-4, 0.001, 1.0, 3.0, 1000.0])
def test_rates_are_one_and_three_times_powers_of_ten(rate: float) -> None:
    assert rate_at(place_of(rate)) == rate
    assert rate_at(place_of(rate * 1.2)) == rate


@pytest.mark.trainer
def test_a_search_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(
        "from anyoptim.comparing.tasks import modular_addition\n"
        "def make():\n    return modular_addition(prime=7, share=0.5, width=8, batch_size=8, steps=10)\n"
    )
    words = ["compare", "sgd", "--task", "small:make", "--lr", "search", "--seeds", "2", "--output", "out", "--json"]
    command = [sys.executable, "-m", "anyoptim", *words]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    runs = json.loads(found.stdout)
    assert {each["entry"]["name"] for each in runs} == {"sgd", "adamw_torch"}
    assert {each["entry"]["steps"] for each in runs} == {10}
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert len({json.loads(each)["entry"]["learning_rate"] for each in lines}) >= RATES
