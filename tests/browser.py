"""A real headless Chromium, for the tests that look at pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass
class Looked:
    """A page, what it asked for, and what its console complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def browser(width: int = 1280, height: int = 900) -> Iterator[Looked]:
    """Open an empty page of a browser of its own; `make browser` installs one."""
    from playwright.sync_api import sync_playwright  # the environments with older transformers have none

    installed = next(filter(None, map(shutil.which, _NAMES)), None)
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=installed, args=_FLAGS)
        except Exception as error:
            pytest.fail(f"no Chromium starts here, `make browser` installs one: {error}")
        looked = Looked(chromium.new_page(viewport={"width": width, "height": height}))
        looked.page.on("request", lambda request: looked.requests.append(request.url))
        looked.page.on("console", lambda message: looked.complaints.append(message.text))
        looked.page.on("pageerror", lambda error: looked.complaints.append(str(error)))
        try:
            yield looked
        finally:
            chromium.close()
