"""Breaks the library in one place after another and shows which test notices: ``make mutants``.

``mutants.json`` says for each mutation what it breaks, the text that stands exactly once in ``src/anyoptim``, what
takes its place, and the tests that should fail then. No file is named, so a function may move. With ids as arguments
only these are tried; ``--list`` only looks whether each text and each test is still there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LONGEST = 600
"""Seconds for the tests of one mutation."""


@dataclass(frozen=True)
class Mutant:
    """One mutation.

    Args:
        id: its name.
        breaks: what goes wrong.
        old: text that stands once in the sources.
        new: what takes its place.
        tests: node ids of pytest; one of them has to fail.
    """

    id: str
    breaks: str
    old: str
    new: str
    tests: tuple[str, ...]


class Stale(Exception):
    """The list does not fit the sources or the tests any more."""


def mutants(wanted: Collection[str] = ()) -> list[Mutant]:
    """Read the list, or some of it by id."""
    listed = json.loads((ROOT / "tools" / "mutants.json").read_text())
    found = [Mutant(**{**each, "tests": tuple(each["tests"])}) for each in listed]
    ids = [each.id for each in found]
    repeated = {each for each in ids if ids.count(each) > 1}
    unknown = set(wanted) - set(ids)
    if repeated or unknown:
        raise Stale(f"ids that are there twice: {sorted(repeated)}, not at all: {sorted(unknown)}")
    return [each for each in found if not wanted or each.id in wanted]


def place(mutant: Mutant, package: Path) -> Path:
    """Return the one file that holds the old text once.

    Raises:
        Stale: there is none, or the text stands elsewhere too.
    """
    counts = {path: path.read_text().count(mutant.old) for path in sorted(package.rglob("*.py"))}
    if sum(counts.values()) != 1:
        where = [f"{path.relative_to(package)}: {count}" for path, count in counts.items() if count]
        raise Stale(f"{mutant.id}: the old text has to stand once, not {', '.join(where) or 'nowhere'}: {mutant.old!r}")
    return next(path for path, count in counts.items() if count)


def check(mutant: Mutant) -> Path:
    """Return where a mutation applies, after a look at its tests."""
    for test in mutant.tests:
        file, _, name = test.partition("::")
        path = ROOT / file
        if not path.exists() or f"def {name.partition('[')[0]}(" not in path.read_text():
            raise Stale(f"{mutant.id}: there is no test {test}")
    return place(mutant, ROOT / "src" / "anyoptim")


def run(tests: Iterable[str], sources: Path, *options: str) -> tuple[int, str]:
    """Run tests on a copy of the sources; returns pytest's exit code and what it wrote."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(sources), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONDONTWRITEBYTECODE": "1",  # two mutations of one size in one second have one bytecode
        "CI": "1",  # the same examples each time
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *options, *tests]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        return -1, f"longer than {LONGEST} s"
    return done.returncode, done.stdout + done.stderr


def verdict(code: int, output: str) -> tuple[bool, str]:
    """Return whether a mutation was caught, and by which test, from pytest's exit code and output."""
    failed = re.search(r"^FAILED (.+?)(?: - .*)?$", output, re.MULTILINE)
    if code == 1 and failed:
        return True, failed[1]
    if code == 0:
        return False, "NOT CAUGHT"
    # a test that is not there, or sources that cannot be imported, prove nothing
    return False, f"BROKEN (pytest's exit code {code}): {output.strip().rpartition(chr(10))[2]}"


def try_all(chosen: Sequence[Mutant]) -> int:
    """Apply each mutation in turn, print the table; returns how many were not caught."""
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder, "src")
        shutil.copytree(ROOT / "src", sources, ignore=shutil.ignore_patterns("__pycache__"))
        # a test that fails anyway catches nothing
        code, output = run(dict.fromkeys(test for each in chosen for test in each.tests), sources)
        if code:
            raise Stale(f"the tests fail without any mutation:\n{output[-3000:]}")
        width = max(len(each.id) for each in chosen)
        for each in chosen:
            path = place(each, sources / "anyoptim")
            text, began = path.read_text(), time.monotonic()
            path.write_text(text.replace(each.old, each.new))
            try:
                caught, by = verdict(*run(each.tests, sources, "-x"))
            finally:
                path.write_text(text)
            missed += not caught
            print(f"{each.id:<{width}}  {each.breaks:<64}  {by}  {time.monotonic() - began:.0f} s", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} are caught")
    return missed


def main(words: Sequence[str]) -> int:
    chosen = mutants([word for word in words if word != "--list"])
    places = {each.id: check(each) for each in chosen}
    if "--list" not in words:
        return 1 if try_all(chosen) else 0
    for each in chosen:
        print(f"{each.id}: {each.breaks} ({places[each.id].relative_to(ROOT)})")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Stale as problem:
        sys.exit(f"error: {problem}")
