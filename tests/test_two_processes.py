"""Two processes train as one, whatever splits the work, or say why not: replicas never drift apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from two_processes import MODES, cases

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def rows_of(mode: str, folder: Path) -> list[dict[str, dict[str, Any]]]:
    """What each process found in a mode: one launch for all names, by whichever worker comes first."""
    with FileLock(folder / f"{mode}.lock"):
        files = [folder / f"{mode}-{rank}.json" for rank in range(2)]
        if not all(file.exists() for file in files):
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
            command = [sys.executable, str(HERE / "two_processes.py"), str(folder), mode]
            subprocess.run(command, env=environment, check=True, capture_output=True)
        return [json.loads(file.read_text()) for file in files]


@pytest.mark.slow
@pytest.mark.parametrize("case", cases())
@pytest.mark.parametrize("mode", MODES)
def test_two_processes_train_as_one_or_refuse(mode: str, case: str, folder: Path) -> None:
    bound = 1e-5 if mode.startswith("zero") else 1e-9  # of fp32 and of fp64
    for rows in rows_of(mode, folder):
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


@pytest.mark.slow
@pytest.mark.parametrize("case", cases())
@pytest.mark.parametrize("mode", MODES)
def test_planned_memory_of_two_processes_is_measured(mode: str, case: str, folder: Path) -> None:
    row, _ = (rows[case] for rows in rows_of(mode, folder))
    predicted = json.loads((folder / f"{mode}-predicted.json").read_text())[case]
    if "error" in row:
        return  # refused, as the test above says
    measured = row["memory"]
    if mode == "zero3":
        measured = {"state": measured["state"]}  # weights are freed where they are, and kept elsewhere
    padding = PADDING if mode.startswith("zero") else 0
    for key, found in measured.items():
        assert 0 <= found - predicted[key] <= padding, (key, found, predicted[key])
