"""The site: every link leads somewhere, search finds what explains first, and pages are whole in a real browser."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
from browser import browser
from filelock import FileLock
from test_docs import FENCE, ROOT

import anyoptim

if TYPE_CHECKING:
    from playwright.sync_api import Page


def pages() -> Any:
    """The module that writes the pages of names; the environments with older transformers have no mkdocs for it."""
    return importlib.import_module("site_names")


def test_every_name_has_a_page_whose_lines_are_valid() -> None:
    from transformers import TrainingArguments

    with anyoptim.enable():
        for name in pages().names():
            for language, block in FENCE.findall(pages().name_page(name)):
                assert language == "python"
                exec(
                    block.replace('output_dir="out"', 'output_dir="out", use_cpu=True'),
                    {"TrainingArguments": TrainingArguments},
                )


def test_guides_show_the_hyperparameters_that_a_name_takes() -> None:
    for page in ("guide.md", "ko/guide.md"):
        shown = re.findall(r"<!-- hyperparameters: (\S+) -->", (ROOT / "docs" / page).read_text())
        assert {"apollo_adamw", "grokadamw", "lomo", "adalomo", "schedule_free_radamw", "stable_adamw"} <= set(shown)
        for name in shown:
            spec = anyoptim.optimizer_info(name)
            table = pages().hyperparameters(spec, korean=page.startswith("ko"))
            assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [each.name for each in spec.hyperparameters]


def test_every_paper_is_a_link() -> None:
    link = re.compile(r"\[[^]]+\]\(https?://[^)\s]+\)")
    papers = {
        name: re.search(r"^\| paper \| (.*) \|$", pages().name_page(name), re.MULTILINE) for name in pages().names()
    }
    assert {name for name, row in papers.items() if not row} == {
        name for name in papers if not anyoptim.optimizer_info(name).paper
    }
    rows = {name: row[1] for name, row in papers.items() if row}
    assert len(rows) > 350
    listed = pages().index_page()
    for name, row in rows.items():
        assert row in listed, name
        # beside links, a word on what one of them is
        assert link.search(row), name
        assert re.fullmatch(r"( \([\w-]+\))?(, ( \([\w-]+\))?)*", link.sub("", row)), (name, row)


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
                assert parts.scheme in ("https", "http", "data", "mailto"), (path, link)
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


def hits(page: Page, words: str) -> list[str]:
    """Type words into the search, and return the pages that it finds, best first."""
    field = page.locator(".md-search__input")
    field.fill(words)
    field.press("End")  # the theme listens to keys
    found = page.locator(".md-search-result__item > a")
    found.first.wait_for(timeout=20_000)
    links = [str(each.get_attribute("href")) for each in found.all()]
    return list(dict.fromkeys(urlsplit(each).path.lstrip("/") for each in links))


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
        assert page.locator("table").count() >= 2
        assert all(url.startswith((served, "data:", "blob:")) for url in looked.requests), looked.requests
        assert looked.complaints == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "first"),
    {
        "weight decay": ["guide.html", "targets.html"],
        "learning rate": ["targets.html", "guide.html"],
        "fused_backward": ["guide.html", "targets.html"],
        "grokking": ["guide.html", "ko/guide.html", "names/grokadamw.html"],
        "soap": ["names/soap.html"],
        "그래디언트": ["ko/guide.html"],
        "대상 모듈": ["ko/targets.html"],
    }.items(),
)
def test_search_finds_what_explains_first(served: str, words: str, first: list[str]) -> None:
    with browser() as looked:
        looked.page.goto(f"{served}/index.html")
        assert hits(looked.page, words)[: len(first)] == first
        assert looked.complaints == []


@pytest.mark.slow
def test_no_code_is_cut_at_1280_pixels(site: Path) -> None:
    written = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    with browser(width=1280) as looked:
        for path in [*written, Path("commands.html")]:
            looked.page.goto((site / path).as_uri())
            cut = "all => all.filter(each => each.scrollWidth > each.clientWidth).map(each => each.innerText)"
            assert looked.page.locator("pre > code").evaluate_all(cut) == [], path


@pytest.mark.slow
def test_the_matrix_at_1280_pixels(site: Path) -> None:
    verdicts = json.loads((ROOT / "docs" / "matrix.json").read_text())["names"]
    with browser(width=1280) as looked:
        page = looked.page
        page.goto((site / "matrix.html").as_uri())
        box, rows = page.locator(".matrix"), page.locator(".matrix tbody tr:visible")
        assert box.evaluate("each => each.scrollWidth <= each.clientWidth")
        # the heads of columns and rows stay where they are
        page.set_viewport_size({"width": 800, "height": 900})
        head, name = page.locator(".matrix thead th").nth(5), page.locator(".matrix tbody th").last
        box.evaluate("each => each.scrollTo(0, each.scrollHeight)")
        top, left = box.bounding_box(), name.bounding_box()
        assert top and left
        assert head.bounding_box()["y"] == pytest.approx(top["y"], abs=2)  # type: ignore[index]  # it is visible
        box.evaluate("each => each.scrollTo(each.scrollWidth, each.scrollHeight)")
        assert box.evaluate("each => each.scrollLeft") > 100
        assert name.bounding_box()["x"] == left["x"]  # type: ignore[index]

        def shown() -> set[str]:
            return set(rows.locator("th").all_inner_texts())

        def works(*checks: str) -> set[str]:
            return {name for name, each in verdicts.items() if all(each["checks"][one][0] == "pass" for one in checks)}

        assert shown() == set(verdicts)
        page.get_by_label("Package").select_option("timm")
        timm = {name for name in verdicts if anyoptim.optimizer_info(name).package == "timm"}
        assert shown() == timm
        page.get_by_role("button", name="fp16").click()
        assert shown() == timm & works("fp16")
        page.get_by_role("button", name="deepcopy and pickle").click()
        assert shown() == timm & works("fp16", "deepcopy and pickle") != timm & works("fp16")
        page.get_by_role("button", name="Show all").click()
        page.get_by_placeholder("lion").fill("LION")
        assert shown() == {name for name in verdicts if "lion" in name}
        page.get_by_role("button", name="Show all").click()
        page.get_by_label("no ✗").check()
        whole = {name for name, each in verdicts.items() if all(one[0] != "limit" for one in each["checks"].values())}
        assert shown() == whole
        assert page.locator(".matrix tbody a").first.get_attribute("href") == f"names/{min(verdicts)}.html"


@pytest.mark.slow
def test_a_korean_page_has_a_korean_side_bar(served: str) -> None:
    with browser() as looked:
        page = looked.page
        page.goto(f"{served}/ko/targets.html")
        side = page.locator(".md-nav--primary > .md-nav__list > .md-nav__item > :is(a, label):visible")
        korean = ["시작하기", "가이드", "대상 모듈과 그룹", "분산 학습", "카탈로그", "영어 문서"]
        assert [each.strip() for each in side.all_inner_texts()] == korean
        assert page.get_by_placeholder("검색").count() == 1
        switch = page.locator(".md-header a[hreflang]")
        assert {each.get_attribute("hreflang"): each.get_attribute("href") for each in switch.all()} == {
            "en": "../targets.html",
            "ko": "targets.html",
        }
        page.goto(f"{served}/targets.html")
        assert "Targets and groups" in side.all_inner_texts()[2]


@pytest.mark.slow
def test_pages_fit_a_phone(served: str) -> None:
    with browser(width=390, height=800) as looked:
        for path in ("index", "guide", "ko/guide", "names/index", "matrix", "commands"):
            looked.page.goto(f"{served}/{path}.html")
            assert looked.page.evaluate("document.documentElement.scrollWidth") <= 390, path
