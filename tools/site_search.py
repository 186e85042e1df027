"""What the search of the site finds, and what first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from html import escape

from site_names import names

from anyoptim.names.lookup import optimizer_info

FEW = 10
"""A hyperparameter that more names take than these says nothing about any of them."""
_FIRST = ("guide.md", "targets.md")
_THEN = ("index.md", "distributed.md", "commands.md", "catalogue.md")


def boost(uri: str) -> dict[str, float | bool]:
    """Return what a page's front matter would say to the search: how much a match in it counts, or to leave it out.

    Args:
        uri: the page's file; a translation counts as what it translates.
    """
    page = uri.removeprefix("ko/")
    if page in _FIRST:
        return {"boost": 100}
    if page in _THEN:
        return {"boost": 10}
    if page.startswith("names/") and page != "names/index.md":
        return {"exclude": True}  # name_entries stand for it
    return {"boost": 1}


def name_entries() -> Iterator[dict[str, str | float]]:
    """Yield what search knows of each name: its summary, other names, paper, class and what few others take."""
    for name in names():
        spec = optimizer_info(name)
        own = [each.name for each in spec.hyperparameters if _takers()[each.name] <= FEW]
        parts = [
            f"{spec.summary}.",
            ", ".join(spec.aliases),
            spec.paper,
            f"{spec.default.class_path} of {spec.package}",
            ", ".join(own),
        ]
        text = "".join(f"<p>{escape(each)}</p>" for each in parts if each)
        yield {"location": f"names/{name}.html", "title": name, "text": text, "boost": 1}


@cache
def _takers() -> Counter[str]:
    return Counter(each.name for name in names() for each in optimizer_info(name).hyperparameters)
