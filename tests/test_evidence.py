"""What the package knows of the evidence is what the runs came to, and the page says the same."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

import anyoptim
from anyoptim.planning.evidence import BASELINE, evidence, evidence_of, tasks

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "benchmarks" / "results" / "evidence"


def runs_of(task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RUNS / f"{task}.jsonl").read_text().splitlines()]


def score(run: dict[str, Any]) -> float | None:
    """The share of wrong answers where there are answers, else the held-out loss."""
    if run["heldout_loss"] is None:
        return None
    return 1 - float(run["accuracies"][-1][1]) if run["accuracies"] else float(run["heldout_loss"])


@pytest.mark.parametrize("task", tasks())
def test_a_result_is_what_its_runs_came_to(task: str) -> None:
    runs = runs_of(task)
    for each in evidence(task):
        own = [
            run
            for run in runs
            if run["entry"]["name"] == each.name
            and run["entry"]["steps"] == tasks()[task].steps
            and ("state_dtype=" in run["entry"]["optim_args"]) == ("state_dtype=" in each.optim_args)
        ]
        first = {run["entry"]["learning_rate"]: score(run) for run in own if run["entry"]["seed"] == 0}
        trained = {rate: loss for rate, loss in sorted(first.items()) if loss is not None}
        assert dict(each.rates) == {rate: pytest.approx(loss, abs=1e-4) for rate, loss in trained.items()}
        assert each.lr == min(trained, key=lambda rate: trained[rate])
        found = [score(run) for run in own if run["entry"]["learning_rate"] == each.lr]
        losses = [loss for loss in found if loss is not None]
        assert each.seeds == len(losses)
        assert each.loss == pytest.approx(sum(losses) / len(losses), abs=1e-4)
        assert (each.lowest, each.highest) == pytest.approx((min(losses), max(losses)), abs=1e-4)


@pytest.mark.parametrize("task", tasks())
def test_forty_names_with_their_best_rate_inside(task: str) -> None:
    found = evidence(task)
    assert len({each.name for each in found if "(" not in each.name}) >= 40
    # of an optimizer that learned nothing, which answers as by chance, no rate is the best
    learned = [each for each in found if tasks()[task].measure == "held-out loss" or each.loss < 0.9]
    ends = {each.name for each in learned if not each.rates[0][0] < each.lr < each.rates[-1][0]}
    # where the next rate fails, nothing can be learned beyond
    assert ends <= {run["entry"]["name"] for run in runs_of(task) if run["error"]}
    assert all(len(each.rates) >= 6 or not tasks()[task].measure.startswith("wrong") for each in found)


def test_all_that_was_measured_is_a_name() -> None:
    for task in tasks():
        assert evidence_of(BASELINE, task) is not None
        for each in evidence(task):
            assert anyoptim.optimizer_info(each.name).name == each.name
    assert evidence_of("rprop", "bytes") is None
    assert evidence_of("AdamW", "bytes") == evidence_of("adamw_torch", "bytes")


def test_the_page_says_what_the_package_knows() -> None:
    tool = importlib.import_module("evidence")
    page = (ROOT / "docs" / "evidence.md").read_text()
    assert page.partition(tool.MARK)[2].strip() == "\n".join(tool.tables()).strip()
    assert {f"pictures/evidence-{task}-{kind}.svg" for task in tasks() for kind in ("front", "rates")} == set(
        re.findall(r"\]\((pictures/\S+)\)", page)
    )


@pytest.mark.parametrize("name", ["muon", "rprop", "timm/lamb"])
def test_a_names_page_says_how_it_did_or_that_nobody_knows(name: str) -> None:
    text = importlib.import_module("site_names").name_page(name)
    assert ("No evidence" in text) == (evidence_of(name, "bytes") is None)
    assert ("pictures/muon.svg" in text) == (name == "muon")
    assert "bytes for each parameter" in text


# ---------------------------------------------------------------- translated rates


def test_the_report_of_translated_rates_is_what_was_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    report = importlib.import_module("translate_report")
    found = report.outcomes()
    _, _, written = (ROOT / "benchmarks" / "results" / "translate.md").read_text().partition(report.MARK)
    assert written.strip() == "\n".join(report.tables(found)).strip()
    assert "to come" not in written
    for task in ("bytes", "finetune"):
        near = [each.worse <= 0.05 for each in found if each.judged.task == task]
        assert len(near) >= 45 and sum(near) >= 0.8 * len(near)
