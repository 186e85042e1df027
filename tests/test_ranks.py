"""What several ranks do, against one process: meshes, gradients that are parts of a sum, checkpoints."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from meshes import as_one
from ranks import Cases, found

NAMES = ["muon", "apollo_mini", "galore_adamw"]
TWO: Cases = {}
FOUR: Cases = {f"{name} on {mesh}": partial(as_one, name, mesh) for name in NAMES for mesh in ("fsdp_tp", "hsdp")}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.mark.slow
@pytest.mark.parametrize("case", FOUR)
def test_four_ranks(case: str, folder: Path) -> None:
    assert found(FOUR, 4, folder / "four-ranks.json")[case] == [""] * 4
