"""The rooms of docs/architecture.md: no file imports a room above its own, and no circle is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Hold a copy of the package against the contracts in pyproject.toml."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--config"]
    return subprocess.run(
        [*command, str(ROOT / "pyproject.toml")],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "src" / "anyoptim", tmp_path / "anyoptim", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_rooms_import_only_rooms_below_them(copy: Path) -> None:
    found = lint(copy)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("arguments/values.py", "from anyoptim.routing.structure import Place"),
        ("routing/groups.py", "def later() -> None:\n    from anyoptim.planning.plan import plan"),
        ("names/spec.py", "if TYPE_CHECKING:\n    from anyoptim.names.registry import register"),
        ("memory/state.py", "if TYPE_CHECKING:\n    from anyoptim.memory.footprint import Footprint"),
        ("building/assemble.py", "import transformers"),
        ("routing/routes.py", "from anyoptim.engines.muon import Muon"),
    ],
)
def test_an_arrow_upwards_or_a_circle_is_found(copy: Path, file: str, line: str) -> None:
    with (copy / "anyoptim" / file).open("a", encoding="utf-8") as source:
        source.write(f"\n\n{line}\n")
    assert lint(copy).returncode == 1
