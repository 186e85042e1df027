"""Writes how the catalogue's names step on parameters that several processes share: ``make across``.

A name that trains on sharded parameters as it is, and goes on there, is left as it is. Of the others, those that are
element-wise step part by part, and those whose step needs one parameter alone are owned. With names as arguments only
these are tried.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from anyoptim.catalog._index import ACROSS, FOLDER, read_index, ways_across
from anyoptim.names.lookup import optimizer_info
from anyoptim.names.spec import Across
from anyoptim.testing.pieces import is_elementwise, is_separable
from anyoptim.testing.sharded import CHECKS, train_sharded
from anyoptim.testing.subject import Subject


def paths() -> Iterator[str]:
    """Every name of an index whose package is installed, and that can train in a loop."""
    for file in sorted(FOLDER.glob("*.json")):
        for own in read_index(file.stem)["optimizers"]:
            path = f"{file.stem}/{own}"
            default = optimizer_info(path).default
            if default.installed and not (default.unusable or default.needs_process_group or default.device):
                yield path


def way_of(path: str) -> Across:
    """Return the way of a name that does not train on sharded parameters as it is."""
    warnings.simplefilter("ignore")
    try:
        if is_elementwise(Subject(path)):
            return "local"
        return "owned" if is_separable(Subject(path)) else ""
    except Exception:  # a stranger's optimizer may raise anything
        return ""


def main(wanted: list[str]) -> None:
    """Try, and write what is found."""
    every = wanted or list(paths())
    found = {path: way for path, way in ways_across().items() if path not in every}
    as_they_are = zip(every, train_sharded([Subject(path) for path in every], ""), strict=True)
    others = [path for path, (_, of) in as_they_are if not all(of.get(check, (False, ""))[0] for check in CHECKS)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found |= dict(zip(others, pool.map(way_of, others), strict=True))
    ways = {way: sorted(path for path, each in found.items() if each == way) for way in ("local", "owned")}
    ACROSS.write_text(json.dumps(ways, indent=2) + "\n", encoding="utf-8")
    sys.stderr.write(f"{len(ways['local'])} part by part, {len(ways['owned'])} owned\n")


if __name__ == "__main__":
    main(sys.argv[1:])
