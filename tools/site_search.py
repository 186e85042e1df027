"""What the search of the site finds first: what explains a thing comes before what lists it."""

from __future__ import annotations

_BOOSTS = {"guide": 100, "targets": 100, "index": 10, "distributed": 10, "commands": 10, "catalogue": 10}
_BARE_NAME = 5
"""``soap`` comes before ``heavyball/soapademamix``."""
EXCLUDE = "data-search-exclude"
"""An attribute of a heading: search leaves its section out."""


def boost(uri: str) -> float:
    """Return how much a match in a page counts.

    Args:
        uri: the page's file; a translation counts half of what it translates.
    """
    folder, _, page = uri.removesuffix(".md").rpartition("/")
    if folder == "names":
        return _BARE_NAME
    return _BOOSTS.get(page, 1) / (2 if folder == "ko" else 1) if folder in ("", "ko") else 1
