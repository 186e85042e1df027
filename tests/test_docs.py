"""What is written is true: every code block runs, every link leads somewhere, and the site opens in a real browser."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from browser import browser
from filelock import FileLock
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
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/plugin/README.md")),
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
    written = [line for _, language, text in BLOCKS if language == "bash" for line in text.splitlines()]
    examples = [one for part in vars(command_line).values() for one in getattr(part, "EXAMPLES", ())]
    found = dict.fromkeys(shlex.join(shlex.split(line, comments=True)) for line in [*written, *examples])
    return [pytest.param(line, marks=[pytest.mark.slow] if takes_long(line) else []) for line in found if line]


def takes_long(line: str) -> bool:
    """Whether it starts processes, trains, or plans every name."""
    long = ("accelerate", "torchrun", "anyoptim compare", "anyoptim demo", "anyoptim recommend", "anyoptim check")
    return line.startswith(long) and "--check" not in line


def test_every_block_has_a_language_that_is_checked() -> None:
    checked = {"python", "bash", "toml", "json", "yaml", "text", ""}
    # without a language: what a command prints, in the README only
    assert {(language, path.name) for path, language, _ in BLOCKS if language not in checked - {""}} <= {
        ("", "README.md")
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
    (folder / "text.txt").write_text((ROOT / "README.md").read_text())


def check_requirements(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        path, bracket, rest = word.partition("[")
        is_folder = path.startswith(".")
        assert not is_folder or (ROOT / path / "pyproject.toml").is_file()
        wanted = Requirement(f"anyoptim{bracket}{rest}" if is_folder else word)
        assert wanted.name == "anyoptim"
        assert wanted.extras <= set(extras)


def test_every_name_is_in_the_readme() -> None:
    table = (ROOT / "README.md").read_text().partition("## The names")[2].partition("##")[0]
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


# ---------------------------------------------------------------- the site


def hook() -> Any:
    """The module that makes pages."""
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / "tools" / "site.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_name_has_a_page_whose_lines_are_valid() -> None:
    from transformers import TrainingArguments

    module = hook()
    with anyoptim.enable():
        for name in module.names():
            for language, block in FENCE.findall(module.name_page(name)):
                assert language == "python"
                exec(
                    block.replace('output_dir="out"', 'output_dir="out", use_cpu=True'),
                    {"TrainingArguments": TrainingArguments},
                )


def test_guides_show_the_hyperparameters_that_a_name_takes() -> None:
    module = hook()
    for page in ("guide.md", "ko/guide.md"):
        shown = re.findall(r"<!-- hyperparameters: (\S+) -->", (ROOT / "docs" / page).read_text())
        assert {"apollo_adamw", "grokadamw", "lomo", "adalomo", "schedule_free_radamw", "stable_adamw"} <= set(shown)
        for name in shown:
            spec = anyoptim.optimizer_info(name)
            table = module.hyperparameters(spec, korean=page.startswith("ko"))
            assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [each.name for each in spec.hyperparameters]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site: broken links and missing pages fail the build. One for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "site"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
            done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Links(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [value for key in ("href", "src") if (value := values.get(key))]
        self.anchors |= {value for key in ("id", "name") if (value := values.get(key))}


def test_every_link_leads_somewhere(site: Path) -> None:
    pages = {path: Links(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 380
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                assert parts.scheme in ("https", "data", "mailto") or "localhost" in link, (path, link)
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), (path, link)
            # "__…" are the theme's own switches
            if parts.fragment and target in pages and not parts.fragment.startswith("__"):
                assert unquote(parts.fragment) in pages[target].anchors, (path, link)


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("localhost", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()


@pytest.mark.slow
def test_pages_in_a_browser(served: str) -> None:
    with browser() as looked:
        page = looked.page
        for path, title in {
            "index": "Start here",
            "ko/guide": "옵티마이저 가이드",
            "names/timm/lamb": "timm/lamb",
        }.items():
            page.goto(f"{served}/{path}.html")
            assert title in page.locator("h1").inner_text()
        assert page.locator("table").count() >= 3
        for words, found in {"grokking": "GrokAdamW", "그래디언트": "가이드"}.items():
            page.goto(f"{served}/index.html")
            page.get_by_placeholder("Search").fill(words)
            page.locator(".md-search-result__item").first.wait_for(timeout=20_000)
            assert found.lower() in page.locator(".md-search-result__list").inner_text().lower()
        assert all(url.startswith((served, "data:", "blob:")) for url in looked.requests), looked.requests
        assert looked.complaints == []


@pytest.mark.slow
def test_pages_fit_a_phone(served: str) -> None:
    with browser(width=390, height=800) as looked:
        for path in ("index", "guide", "ko/guide", "names/index", "matrix", "commands"):
            looked.page.goto(f"{served}/{path}.html")
            assert looked.page.evaluate("document.documentElement.scrollWidth") <= 390, path
