"""What is written is true: every code block and every command line runs, and a translation says the same."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from processes import command
from torch.utils.data import Subset
from toys import TINY_LLAMA, data, llama

import anyoptim
from anyoptim.cli import app as command_line

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "README.ko.md", "CONTRIBUTING.md", "examples/plugin/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
BLOCKS = [(path.relative_to(ROOT), *match) for path in PAGES for match in FENCE.findall(path.read_text())]


def blocks(*languages: str) -> list[Any]:
    """The different blocks of some languages, called after the page that has them first."""
    found: dict[str, Path] = {}
    for path, language, text in BLOCKS:
        if language in languages:
            found.setdefault(text, path)
    return [pytest.param(text, id=f"{path}-{index}") for index, (text, path) in enumerate(found.items())]


def lines() -> list[Any]:
    """The different command lines of pages and of ``--help``."""
    shell = [text.replace("\\\n", "") for _, language, text in BLOCKS if language == "bash"]
    written = [line for text in shell for line in text.splitlines()]
    examples = [one for part in vars(command_line).values() for one in getattr(part, "EXAMPLES", ())]
    found = dict.fromkeys(shlex.join(shlex.split(line, comments=True)) for line in [*written, *examples])
    return [pytest.param(line, marks=[pytest.mark.slow] if takes_long(line) else []) for line in found if line]


def takes_long(line: str) -> bool:
    """Whether it starts processes or trains for long."""
    long = ("accelerate", "torchrun", "anyoptim compare", "anyoptim translate", "anyoptim demo", "anyoptim check")
    return line.startswith(long) and "--check" not in line


def test_every_block_has_a_language_that_is_checked() -> None:
    checked = {"python", "bash", "toml", "json", "yaml", "text", ""}
    # without a language: what a command prints, in the README only
    assert {(language, path.name) for path, language, _ in BLOCKS if language not in checked - {""}} <= {
        ("", "README.md"),
        ("", "README.ko.md"),
    }


@pytest.mark.usefixtures("restored_registry")
@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs(block: str, tokenizer: Any, texts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # only what a machine without a GPU has to say
    block = block.replace('output_dir="out"', 'output_dir="out", use_cpu=True')
    examples = texts.select(range(8)) if "trl" in block else Subset(data(), range(8))
    args = {"optim_target_modules": "all-linear", "learning_rate": 1e-3}
    names = {"__name__": "page", "model": llama(), "data": examples, "tokenizer": tokenizer, "args": args}
    try:
        exec(block, names)
    finally:
        anyoptim.disable()


@pytest.mark.parametrize("block", blocks("toml", "json"))
def test_data_can_be_read(block: str) -> None:
    try:
        json.loads(block)
    except ValueError:
        tomllib.loads(block)


@pytest.mark.parametrize("line", lines())
def test_command_line_runs(line: str, tmp_path: Path) -> None:
    words = shlex.split(line)
    if words[:2] == ["pip", "install"]:
        return check_requirements(words[2:])
    if words[0] == "make":
        subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, capture_output=True)
        return
    assert words[0] in ("anyoptim", "accelerate", "torchrun")
    if words[:2] == ["accelerate", "launch"]:
        # accelerate's own script imports timm where it is, which is here without its torchvision
        words[:2] = [sys.executable, "-m", "accelerate.commands.launch"]
    prepare(tmp_path)
    environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    if words[0] == "anyoptim":
        done = command(*words[1:], cwd=tmp_path, env=environment)
    else:
        full = {**os.environ, **environment}
        done = subprocess.run(words, cwd=tmp_path, env=full, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def prepare(folder: Path) -> None:
    """Make the files that the pages speak of."""
    shutil.copy(ROOT / "examples" / "train.py", folder / "train.py")
    TINY_LLAMA.to_json_file(folder / "config.json")
    (folder / "my_task.py").write_text(task_of_the_page())
    (folder / "text.txt").write_text((ROOT / "README.md").read_text())


def task_of_the_page() -> str:
    (code,) = (text for path, language, text in BLOCKS if path == Path("docs/compare.md") and language == "python")
    return str(code)


def test_the_pages_task_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anyoptim.comparing.task_loading import load_task

    (tmp_path / "my_task.py").write_text(task_of_the_page())
    monkeypatch.chdir(tmp_path)
    task = load_task("my_task:make")
    assert len(task.train) == 48 and len(task.heldout) == 16  # type: ignore[arg-type]  # they have lengths
    first = task.train[0]
    assert task.model()(**{name: values[None] for name, values in first.items()}).loss > 0


def check_requirements(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        path, bracket, rest = word.partition("[")
        is_folder = path.startswith(".")
        assert not is_folder or (ROOT / path / "pyproject.toml").is_file()
        wanted = Requirement(f"anyoptim{bracket}{rest}" if is_folder else word)
        assert wanted.name == "anyoptim"
        assert wanted.extras <= set(extras)


def test_every_bare_name_is_in_the_catalogue() -> None:
    table = (ROOT / "docs" / "catalogue.md").read_text().partition("## The bare names")[2].partition("##")[0]
    bare = {name for name in anyoptim.list_optimizers() if "/" not in name and not name.startswith("example_")}
    assert bare <= set(re.findall(r"`(\w+)(?:\(…\))?`", table))


@pytest.mark.parametrize("page", ["docs/guide.md", "docs/ko/guide.md"])
def test_the_guides_memory_is_what_the_plan_predicts(page: str) -> None:
    from anyoptim.integrations.models import meta_model
    from anyoptim.text import format_bytes

    rows = re.findall(
        r"^\| `(\w+)` \| (?:`(.*?)`)? ?\| (.*? \w+) \| ([\d.]+) \|$", (ROOT / page).read_text(), re.MULTILINE
    )
    assert len(rows) > 10
    model = meta_model("llama-7b", "bf16")
    elements = sum(each.numel() for each in model.parameters())
    for name, optim_args, state, of_each in rows:
        targets = "all-linear" if anyoptim.optimizer_info(name).traits.names_targets else None
        found = anyoptim.plan(name, model, optim_args=optim_args, optim_target_modules=targets).state_bytes
        assert found is not None
        assert (format_bytes(found), f"{found / elements:.3g}") == (state, of_each), name


MEMORY_PAGES = [ROOT / "docs" / "memory.md", ROOT / "docs" / "ko" / "memory.md"]


@pytest.mark.parametrize("page", MEMORY_PAGES, ids=str)
def test_the_memory_pages_tables_are_what_the_plan_predicts(page: Path) -> None:
    from anyoptim.integrations.models import meta_model
    from anyoptim.text import format_bytes

    model = meta_model("llama-7b", "bf16")
    elements = sum(each.numel() for each in model.parameters())

    def footprint(*optim_args: str) -> Any:
        return anyoptim.plan("adamw_torch", model, optim_args=",".join(filter(None, optim_args)) or None).footprint()

    rows = re.findall(
        r"^\| (?:`(.*?)`)? ?\| (\S+ \w+) \| (\S+ \w+) \| (\S+ \w+) \| (\S+ \w+) \|$", page.read_text(), re.M
    )
    assert len(rows) == 6
    for optim_args, *told in rows:
        found = footprint("fused_backward=true", optim_args)
        assert (format_bytes(found.weights), format_bytes(found.gradients)) == ("12.6 GiB", "386 MiB")
        held = (found.remainder, found.state - found.remainder, found.elsewhere, found.total)
        assert [format_bytes(each) for each in held] == told, optim_args
    settings = re.findall(r"^\| `((?:master_weights|state_dtype)=\w+)` \| ([\d.]+) \|", page.read_text(), re.M)
    assert len(settings) == 10
    for setting, told in settings:
        found = footprint(setting)
        held = found.remainder if setting.startswith("master_weights") else found.state
        assert f"{held / elements:.4g}" == told, setting


def test_the_memory_pages_example_is_what_the_command_prints(tmp_path: Path) -> None:
    page = MEMORY_PAGES[0].read_text()
    line, table = (
        re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.M)[0] for language in ("bash", "text")
    )
    done = command(*shlex.split(line.replace("\\\n", ""))[1:], cwd=tmp_path)
    printed = [each.rstrip() for each in done.stdout.splitlines()]
    assert [each for each in table.splitlines() if each not in printed] == []


COMMENT = re.compile(r"\s*# .*")
TRANSLATED = sorted(path.name for path in (ROOT / "docs" / "ko").glob("*.md"))


def test_what_is_translated() -> None:
    assert {"index.md", "guide.md", "targets.md", "distributed.md", "catalogue.md"} <= set(TRANSLATED)


def test_the_readme_is_read_in_two_minutes() -> None:
    for name in ("README.md", "README.ko.md"):
        lines = FENCE.sub("", (ROOT / name).read_text()).splitlines()
        assert len((ROOT / name).read_text().splitlines()) <= 120
        assert max(len(line) for line in lines if not line.startswith("|")) <= 260


@pytest.mark.parametrize(
    ("page", "translation"),
    [("README.md", "README.ko.md"), *((f"docs/{name}", f"docs/ko/{name}") for name in TRANSLATED)],
)
def test_a_translation_has_the_same_parts_and_code(page: str, translation: str) -> None:
    def parts(path: Path) -> dict[str, list[Any]]:
        text = path.read_text()
        prose = FENCE.sub("", text)
        return {
            "code": [(language, COMMENT.sub("", code)) for language, code in FENCE.findall(text)],
            "headings": re.findall(r"^#+(?= )", prose, re.MULTILINE),
            "rows": [line.count("|") for line in prose.splitlines() if line.startswith("|")],
            "items": re.findall(r"^- ", prose, re.MULTILINE),
            "hyperparameters": re.findall(r"<!-- (.*?) -->", prose),
        }

    assert parts(ROOT / translation) == parts(ROOT / page)


@pytest.mark.parametrize("name", ["targets.md", "distributed.md", "catalogue.md"])
def test_a_translation_names_and_links_the_same(name: str) -> None:
    def told(path: Path) -> tuple[set[str], set[str]]:
        prose = FENCE.sub("", path.read_text())
        links = re.findall(r"\]\((?:\.\./)*([^)]+)\)", prose)
        return set(re.findall(r"`([^`]+)`", prose)), set(links)

    assert told(ROOT / "docs" / "ko" / name) == told(ROOT / "docs" / name)
