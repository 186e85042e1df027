"""Two processes train as one, whatever splits the work, or say why not: replicas never drift apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from two_processes import BATCHES, MODES, Case, batch_of, rows_of

EACH = pytest.mark.parametrize(
    ("mode", "case"),
    [
        pytest.param(mode, case, marks=[] if batch_of(mode, case) == "few" else pytest.mark.slow)
        for mode in MODES
        for case in BATCHES["all"]
    ],
)


@EACH
def test_two_processes_train_as_one_or_refuse(mode: str, case: str, folder: Path) -> None:
    bound = 1e-5 if mode.startswith("zero") else 1e-9  # of fp32 and of fp64
    for rows in rows_of(mode, batch_of(mode, case), folder):
        row = rows[case]
        if "error" in row:
            assert row["error"].startswith("UnsupportedError: ")
            assert (
                "take" in row["error"] or "train it with" in row["error"] or "set fused_backward=false" in row["error"]
            )
            assert mode != "ddp"
            continue
        assert row["difference"] <= bound
        if mode.startswith("fsdp"):
            assert row["sharded"]
            assert row["freed"] in (None, True)
        if not mode.startswith("zero"):
            assert row["resume"] == 0.0


PADDING = 64
"""Bytes by which DeepSpeed rounds a flat piece up, and the state on it."""


@EACH
def test_planned_memory_of_two_processes_is_measured(mode: str, case: str, folder: Path) -> None:
    both = [rows[case] for rows in rows_of(mode, batch_of(mode, case), folder)]
    if any("error" in row for row in both):
        return  # refused, as the test above says
    predicted = Case(case, mode, folder).predict()
    measured = {key: max(row["memory"][key] for row in both) for key in both[0]["memory"]}
    if mode == "zero3":
        measured = {"state": measured["state"]}  # weights are freed where they are, and kept elsewhere
    padding = PADDING if mode.startswith("zero") else 0
    for key, found in measured.items():
        assert 0 <= found - predicted[key] <= padding, (key, found, predicted[key])
