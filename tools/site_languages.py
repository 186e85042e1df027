"""English and Korean: a page below ko/ is the translation of the page of the same name beside ko/."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mkdocs.structure import StructureItem
from mkdocs.structure.nav import Navigation, Section

_NAMES = {"en": "English", "ko": "한국어"}
_UNTRANSLATED = "영어 문서"
ALTERNATE = re.compile(r'\s*<link rel="alternate" [^>]*>')
"""What the theme writes into a page's head for ``extra.alternate``, beside the switch in its header."""


def language(uri: str) -> str:
    """Return the language of a page."""
    return "ko" if uri.startswith("ko/") else "en"


def alternates(uri: str, urls: Mapping[str, str]) -> list[dict[str, str]]:
    """Return what the theme's language switch shows on a page: the page in each language, or where that one starts.

    Args:
        uri: the page's file.
        urls: where the pages of the navigation are, by their files.
    """
    page = uri.removeprefix("ko/")
    found = {"en": page, "ko": f"ko/{page}"}
    found[language(uri)] = uri
    return [
        {"name": _NAMES[each], "lang": each, "link": urls.get(file) or urls[_start(each)]}
        for each, file in found.items()
    ]


def navigation(nav: Navigation, uri: str) -> Navigation:
    """Return what a page's side bar shows: beside a Korean page the Korean ones, then what there is in English only.

    Args:
        nav: as mkdocs.yml writes it.
        uri: the page's file.
    """
    if language(uri) == "en":
        return nav
    pages = {each.file.src_uri: each for each in nav.pages}
    korean = [page for each, page in pages.items() if language(each) == "ko"]
    english: list[StructureItem] = [
        page for each, page in pages.items() if language(each) == "en" and f"ko/{each}" not in pages
    ]
    return Navigation([*korean, Section(_UNTRANSLATED, english)], nav.pages)


def _start(of: str) -> str:
    return "index.md" if of == "en" else f"{of}/index.md"
