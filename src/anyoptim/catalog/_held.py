"""What is known of a name's state and step that decides how it may be held between steps; ``held.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

HELD = Path(__file__).parent / "held.json"
KEYS = ("weights_in_state", "exact_state")


@lru_cache(maxsize=1)
def _found() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(HELD.read_text(encoding="utf-8"))
    return found


def held_between_steps(path: str) -> dict[str, Any]:
    """Return fields of an implementation, by its name in an index, or by its class path where it is in none."""
    found = _found()
    return {
        "elementwise": path in found["elementwise"],
        **{field: frozenset(found[field].get(path, ())) for field in KEYS},
    }
