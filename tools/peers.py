"""Runs the tests of other packages with their optimizers built by anyoptim: ``make peers``.

Tests come from the source distributions of the installed versions, which pip fetches once into ``.peers/``.
``peers.json`` says for each package which of its files are tests, which tests are left out and why, which ones fail by
themselves and which ones differ through anyoptim, each with the reason. Any other failure is one, and so is a listed
test that passes. With packages as arguments only theirs run; ``--plain`` leaves anyoptim out, to see what fails by
itself; ``--pytest ARGUMENTS`` adds what pytest takes, such as ``-k muon``, and then only what ran is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from re import Pattern
from typing import Any

ROOT = Path(__file__).parent.parent
TOOLS, CACHE = ROOT / "tools", ROOT / ".peers"
PROCESSES = 2
Outcomes = Mapping[str, tuple[str, str]]
"""Of each test that ran: passed, failed or skipped, and the words it failed with."""


@dataclass(frozen=True)
class Ran:
    """What pytest did.

    Args:
        ended: its exit status.
        outcomes: of each test.
        built: how many optimizers each name of anyoptim built.
        said: what stands on stderr.
    """

    ended: int
    said: str
    outcomes: Outcomes = field(default_factory=dict)
    built: Mapping[str, int] = field(default_factory=dict)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("packages", nargs="*")
    parser.add_argument("--plain", action="store_true", help="without anyoptim")
    parser.add_argument("--pytest", default="", help="arguments for pytest")
    wanted = parser.parse_args()
    peers: dict[str, dict[str, Any]] = json.loads((TOOLS / "peers.json").read_text())
    lines, whole = [], True
    for package in wanted.packages or peers:
        problems, line = check(package, peers[package], wanted.plain, shlex.split(wanted.pytest))
        for problem in problems:
            print(f"{package}: {problem}", flush=True)
        lines.append(f"{package} {version(package)}: {line}")
        whole = whole and not problems
    print(*lines, sep="\n")
    return 0 if whole else 1


def check(package: str, peer: Mapping[str, Any], plain: bool, arguments: list[str]) -> tuple[list[str], str]:
    """Run a package's tests; return what is not as the list says, and one line."""
    folder = tests_of(package, peer["tests"])
    if "none" in peer:
        return (["its source distribution carries tests by now"] if folder else []), peer["none"]
    if folder is None:
        return [f"its source distribution carries no {' or '.join(peer['tests'])}"], "not run"
    started = time.monotonic()
    ran = run(package, folder, peer, plain, arguments)
    kinds = ["fails by itself"] if plain else ["fails by itself", "differs"]
    listed = [re.compile(pattern) for kind in kinds for pattern in peer.get(kind, {})]
    problems = list(differences(ran.outcomes, listed, whole=not arguments))
    if ran.ended not in (0, 1):
        problems.append(f"pytest ended with {ran.ended}: {ran.said[-2000:]}")
    if not plain and not ran.built:
        problems.append("no optimizer was built through anyoptim")
    counted = Counter(outcome for outcome, _ in ran.outcomes.values())
    expected = sum(
        outcome == "failed" and any(each.search(test) for each in listed) for test, (outcome, _) in ran.outcomes.items()
    )
    line = (
        f"{counted['passed']} passed, {expected} expected differences, {counted['failed'] - expected} others,"
        f" {counted['skipped']} skipped; {sum(ran.built.values())} optimizers of {len(ran.built)} names,"
        f" {time.monotonic() - started:.0f} s"
    )
    return problems, line


def differences(outcomes: Outcomes, listed: Collection[Pattern[str]], whole: bool) -> Iterator[str]:
    """Yield what failed and is not listed, and what is listed and did not fail."""
    shown = set()
    for test, (outcome, said) in outcomes.items():
        patterns = [each for each in listed if each.search(test)]
        shown.update(patterns)
        if outcome == "failed" and not patterns:
            yield f"{test}: {' '.join(said.split())[:300]}"
        if outcome != "failed" and patterns:
            yield f"{test}: {outcome}; take it out of {patterns[0].pattern!r}"
    if whole:
        yield from (f"{each.pattern!r} is no test; take it off the list" for each in listed if each not in shown)


def run(package: str, folder: Path, peer: Mapping[str, Any], plain: bool, arguments: list[str]) -> Ran:
    """Run pytest over a package's tests, with the plugin that lets them build through anyoptim."""
    paths = [str(ROOT / "src"), str(TOOLS), *(str(installed(each)) for each in peer.get("needs", ()))]
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = Path(scratch) / "outcomes.json"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PEER": package,
            "PEER_OUTCOMES": str(outcomes),
            "PEER_PLAIN": "1" if plain else "",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "peers_plugin", "-p", "no:cacheprovider"]
        command += ["-n", str(PROCESSES), "--dist", "worksteal", "--disable-warnings", "-rN", *arguments]
        files = [each for each in peer["tests"] if not each.endswith("__init__.py")]
        ended = subprocess.run(
            [*command, *files], cwd=folder, env=environment, check=False, stderr=subprocess.PIPE, text=True
        )
        found = json.loads(outcomes.read_text()) if outcomes.exists() else {}
        return Ran(ended.returncode, ended.stderr, **found)


def tests_of(package: str, tests: Collection[str]) -> Path | None:
    """Return a folder with a package's tests and nothing else of it, or ``None`` where it publishes none."""
    folder = CACHE / f"{package}-{version(package)}"
    if not folder.exists():
        with tempfile.TemporaryDirectory() as scratch:
            # its build requirements may be wheels: pip asks the distribution for its metadata, and keeps nothing
            source = [f"{package}=={version(package)}", "--no-binary", package, "--no-deps", "--dest", scratch]
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *source], check=True)
            (archive,) = Path(scratch).iterdir()
            with tarfile.open(archive) as packed:
                for member in packed:
                    member.name = member.name.partition("/")[2]
                    if member.name.startswith(tuple(tests)):
                        packed.extract(member, folder, filter="data")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pytest.ini").write_text("[pytest]\n")  # theirs, and not anyoptim's, a folder above
    return folder if any(folder.rglob("test*.py")) else None


def installed(requirement: str) -> Path:
    """Return a folder with a small package that only a peer's tests need."""
    folder = CACHE / requirement
    if not folder.exists():
        target = ["--no-deps", "--target", str(folder), requirement]
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *target], check=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
