"""The package as others get it: wheel and sdist, extras, types from outside, other Pythons."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_docs import tomllib

import anyoptim
from anyoptim.names.registry import listed

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def run(*words: str | Path, **how: Any) -> str:
    # pytest-xdist puts this Python's own library there, which is no other Python's
    how.setdefault("env", {key: value for key, value in os.environ.items() if key != "PYTHONPATH"})
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, **how)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sdist and wheel; the wheel is built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    copy = folder / "checkout"
    ignored = shutil.ignore_patterns(".*", "site", "demo", "compare", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, copy)
    shutil.rmtree(copy)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, and sees what this one has but for this checkout."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    site = next(folder.glob("lib/*/site-packages"))
    (site / "others.pth").write_text(f"{next(each for each in sys.path if each.endswith('site-packages'))}\n")
    return python


def test_what_the_wheel_holds(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    own = {name.partition("/")[2] for name in names if name.startswith("anyoptim/")}
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"anyoptim", f"anyoptim-{anyoptim.__version__}.dist-info"}
    source = ROOT / "src" / "anyoptim"
    files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert own == {name for name in files if "__pycache__" not in name}
    assert {
        "py.typed",
        "comparing/report.html.j2",
        "planning/page.html.j2",
        "integrations/startup/sitecustomize.py",
    } <= own
    assert any(name.startswith("catalog/index/") for name in own)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_holds_what_a_packager_needs(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "src/anyoptim/__init__.py",
        "tests/toys.py",
    } <= inside
    assert not [name for name in inside if name.startswith((".venv", "site/", "demo/"))]


def test_the_metadata_is_valid(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    text = archive.read(f"anyoptim-{anyoptim.__version__}.dist-info/METADATA")
    metadata = Metadata.from_email(text, validate=True)
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.description_content_type == "text/markdown"
    assert {f"Programming Language :: Python :: {each}" for each in PYTHONS} <= set(metadata.classifiers or ())
    assert str(metadata.requires_python) == ">=3.10"


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": ""}}
    where = run(installed, "-c", "import anyoptim; print(anyoptim.__file__)", **how)
    assert str(installed.parents[1]) in where
    command = installed.parent / "anyoptim"
    assert "apollo_adamw" in run(command, "list", "--json", **how)
    assert "optimizer state" in run(command, "plan", "apollo_mini", "--model", "tiny-llama", **how)
    run(command, "compare", "sgd", "--steps", "1", "--output", "out", **how)
    assert (tmp_path / "out" / "report.html").exists()


# ---------------------------------------------------------------- extras


def requirements(extra: str) -> set[str]:
    """The packages of an extra, those of the extras that it names, too."""
    found: set[str] = set()
    for each in map(Requirement, EXTRAS[extra]):
        if each.name == "anyoptim":
            found |= {name for inner in each.extras for name in requirements(inner)}
        else:
            found.add(canonicalize_name(each.name))
    return found


def test_each_package_has_an_extra_that_installs_it() -> None:
    core = {canonicalize_name(Requirement(each).name) for each in PROJECT["dependencies"]} | {
        "anyoptim",
        "transformers",
    }
    for name in anyoptim.list_optimizers():
        for each in anyoptim.optimizer_info(name).implementations:
            package = canonicalize_name(each.package)
            if each.extra:
                assert package in requirements(each.extra), name
            elif not name.startswith("example_") and package not in core:
                assert each.device or each.install or not each.installed, f"{name}: {package} has no extra"


def test_all_is_everything_that_may_be_used_commercially() -> None:
    defaults = [listed(name).default for name in anyoptim.list_optimizers()]
    wanted = {canonicalize_name(each.package) for each in defaults if each.extra and each.commercial} - {"transformers"}
    upstream = {"galore-torch", "grokadamw", "lomo-optim"}
    assert requirements("all") == wanted | upstream
    assert "apollo-torch" not in requirements("all")


# ---------------------------------------------------------------- types


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_users_code_is_checked(checker: str, installed: Path, tmp_path: Path) -> None:
    code = tmp_path / "user_code.py"
    shutil.copy(ROOT / "tests" / "user_code.py", code)
    if checker == "mypy":
        settings = ["--strict", "--warn-unused-ignores", "--cache-dir", tmp_path / "cache"]
        run(sys.executable, "-m", "mypy", *settings, "--python-executable", installed, code, cwd=tmp_path)
    else:
        settings = tmp_path / "pyrightconfig.json"
        settings.write_text('{"strict": ["."], "reportUnnecessaryTypeIgnoreComment": "error"}')
        run(sys.executable, "-m", "pyright", "--pythonpath", installed, code, cwd=tmp_path)


# ---------------------------------------------------------------- other Pythons


def interpreter(version: str) -> str | None:
    managed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    return shutil.which(f"python{version}") if not managed else str(managed[-1])


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_the_light_commands_on_other_pythons(version: str, wheel: Path, tmp_path: Path) -> None:
    """What needs no torch, whose builds for each Python are gigabytes; and every module compiles."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    run(python, "-m", "venv", tmp_path / "venv")
    own = tmp_path / "venv" / "bin" / "python"
    run(own, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    run(own, "-m", "pip", "install", "--quiet", "typer", "rich")
    command = own.parent / "anyoptim"
    assert anyoptim.__version__ in run(command, "--version")
    assert "timm/lamb" in run(command, "list", "--json")
    assert "update_proj_gap" in run(command, "info", "apollo_adamw")
    assert "recommend" in run(command, "--help")
    site = next((tmp_path / "venv").glob("lib/*/site-packages/anyoptim"))
    run(own, "-W", "error", "-m", "compileall", "-q", "-f", site)
