"""Runs the conformance kit over every name that is installed here: ``make matrix``.

Writes ``docs/matrix.json`` and ``docs/matrix.md``; with names as arguments, only what they say of these. With
``--check`` it writes nothing and fails if a promise is not kept, or if what it finds is not what the committed files
say: of the names whose fingerprint is another one by now, and of a sample of the others; with ``--all`` too, of every
name. Verdicts of a name are kept in ``.matrix/`` by the versions of the name's package, of torch and of transformers,
and by the sources of anyoptim, and are not found again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from fingerprints import fingerprint

import anyoptim
from anyoptim.names.lookup import optimizer_info
from anyoptim.testing.sharded import CHECKS as ON_SEVERAL
from anyoptim.testing.sharded import NEEDS

ROOT = Path(__file__).parent.parent
JSON, PAGE, CACHE = ROOT / "docs" / "matrix.json", ROOT / "docs" / "matrix.md", ROOT / ".matrix"
PROCESSES, BATCH = 2, 60
SAMPLE, SEED = 20, 0
"""How many unchanged names a check looks at, and which."""
Verdicts = dict[str, list[str]]
"""Status and reason of each check."""


def names() -> list[str]:
    """Every name whose package is installed; a wrapper stands for itself around AdamW."""
    return [
        name
        for name in anyoptim.list_optimizers(installed=True)
        if not optimizer_info(name).default.device and not name.startswith("example_")
    ]


def check(name: str) -> tuple[str, Verdicts, float]:
    """Make every check that takes one process."""
    import torch

    from anyoptim.testing import CHECKS, check_optimizer

    torch.set_num_threads(1)
    started = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        report = check_optimizer(name, checks=[each for each in CHECKS if each not in ON_SEVERAL])
    verdicts = {each.check: [each.status, each.reason] for each in report.verdicts}
    return name, verdicts, time.monotonic() - started


def check_sharded(wanted: list[str]) -> Iterator[tuple[str, Verdicts]]:
    """Make the checks that take several processes, of all names in the same ones."""
    from anyoptim.testing.kit import Verdict, impossible, judged
    from anyoptim.testing.sharded import train_sharded
    from anyoptim.testing.subject import Subject

    subjects = {name: Subject(name) for name in wanted}
    for name, subject in list(subjects.items()):
        reason = impossible(subject.spec)
        if reason:
            del subjects[name]
            yield name, {check: ["limit", reason] for check in ON_SEVERAL}
    for (name, subject), (_, found) in zip(subjects.items(), train_sharded(list(subjects.values())), strict=True):
        verdicts = {check: ["n/a", f"it needs {need}"] for check, need in NEEDS.items()}
        for check, (kept, evidence) in found.items():
            verdict = judged(Verdict(check, "pass" if kept else "fail", evidence), subject.spec.default)
            verdicts[check] = [verdict.status, verdict.reason]
        yield name, verdicts


def find(wanted: list[str]) -> dict[str, Verdicts]:
    """Return the verdicts on each name, from the cache where it has them."""
    found: dict[str, Verdicts] = {
        name: json.loads(path.read_text()) if (path := cached(name)).exists() else {} for name in wanted
    }
    missing = [name for name in wanted if "builds" not in found[name]]
    sys.stderr.write(f"{len(wanted) - len(missing)} of {len(wanted)} names are cached\n")
    # some names a process: what a package does to a process must not reach all others
    for start in range(0, len(missing), BATCH):
        with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
            for name, verdicts, seconds in pool.map(check, missing[start : start + BATCH]):
                keep(name, found, verdicts)
                sys.stderr.write(f"{name} {seconds:.1f} s\n")
    for name, verdict in check_sharded([name for name in wanted if not found[name].keys() >= set(ON_SEVERAL)]):
        keep(name, found, verdict)
        sys.stderr.write(f"{name} on several processes\n")
    return {name: found[name] for name in sorted(found)}


def keep(name: str, found: dict[str, Verdicts], verdicts: Verdicts) -> None:
    """Add verdicts to what is found and to the cache."""
    found[name] |= verdicts
    cached(name).parent.mkdir(parents=True, exist_ok=True)
    cached(name).write_text(json.dumps(found[name]))


def cached(name: str) -> Path:
    """Return the file that keeps the verdicts on a name."""
    package = optimizer_info(name).package
    digest = hashlib.sha256(f"{versions_of('torch', 'transformers')} {SOURCES}".encode()).hexdigest()[:16]
    return CACHE / f"{package}-{version(package)}" / digest / f"{name.replace('/', '.')}.json"


def sources() -> str:
    """Return a digest of anyoptim's own files."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src").rglob("*.py")) + sorted((ROOT / "src").rglob("*.json")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


SOURCES = sources()


def versions_of(*packages: str) -> dict[str, str]:
    """Return the installed versions."""
    return {package: version(package) for package in packages}


def as_json(found: dict[str, Verdicts]) -> dict[str, Any]:
    """Return what is committed: versions, and for each name its package and its verdicts."""
    packages = sorted({optimizer_info(name).package for name in found} | {"torch", "transformers"})
    return {
        "machine": f"{platform.machine()} CPU",
        "versions": versions_of(*(each for each in packages if each != "anyoptim")),
        "names": {
            name: {
                "package": optimizer_info(name).package,
                "fingerprint": fingerprint(name),
                "checks": found[name],
            }
            for name in found
        },
        "not installed": {
            name: optimizer_info(name).default.pip_install for name in anyoptim.list_optimizers(installed=False)
        },
    }


def text(matrix: dict[str, Any]) -> str:
    """Return the matrix as JSON, a name a line."""
    rows = [f"  {json.dumps(name)}: {json.dumps(entry, ensure_ascii=False)}" for name, entry in matrix["names"].items()]
    rest = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in matrix.items() if key != "names"]
    return "{\n" + ",\n".join([*rest, ' "names": {\n' + ",\n".join(rows) + "\n }"]) + "\n}\n"


def page(matrix: dict[str, Any]) -> str:
    """Return the matrix as a page."""
    from anyoptim.testing import CHECKS

    signs = {"pass": "✓", "limit": "✗", "fail": "**✗**", "n/a": "·"}
    names = matrix["names"]
    whole = sum(all(each["checks"][check][0] == "pass" for check in ("trains", "resume")) for each in names.values())
    lines = [
        "# The measured matrix",
        "",
        f"What the conformance kit (`anyoptim check NAME`) finds for each of {len(names)} names, on a"
        f" {matrix['machine']}, with {', '.join(f'{key} {value}' for key, value in matrix['versions'].items())}.",
        f"{whole} of them train through the Trainer and resume bit-equal. ✓ it does; ✗ it does not, as its spec says;"
        " · there is nothing to check. Written by `make matrix`; reasons are below and in `matrix.json`.",
        "",
        f"| name | package | {' | '.join(CHECKS)} |",
        f"| --- | --- | {' | '.join('---' for _ in CHECKS)} |",
    ]
    for name, entry in names.items():
        cells = " | ".join(signs[entry["checks"][check][0]] for check in CHECKS)
        lines.append(f"| `{name}` | {entry['package']} | {cells} |")
    lines += ["", "## Why not", ""]
    for check in CHECKS:
        reasons = Counter[str]()
        whose: dict[str, list[str]] = {}
        for name, entry in names.items():
            status, reason = entry["checks"][check]
            if status in ("limit", "fail"):
                reason = optimizer_info(name).default.may_fail.get(check, reason)
                reasons[reason] += 1
                whose.setdefault(reason, []).append(f"`{name}`")
        if reasons:
            lines += [f"### {check}", ""]
            lines += [f"- {reason}: {', '.join(whose[reason])}" for reason, _ in reasons.most_common()]
            lines.append("")
    if matrix["not installed"]:
        lines += ["## Not installed here", ""]
        lines += [f"- `{name}`: {install}" for name, install in matrix["not installed"].items()]
        lines.append("")
    return "\n".join(lines)


def changed_and_sampled(committed: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names whose verdicts may be others by now, and a sample of the rest, the same one each time."""
    written = committed["names"]
    changed = [each for each in names() if written.get(each, {}).get("fingerprint") != fingerprint(each)]
    rest = sorted(set(names()) - set(changed))
    return changed, sorted(random.Random(SEED).sample(rest, min(SAMPLE, len(rest))))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return where the statuses of a matrix differ from those of the one before."""
    found = [f"{name} is new" for name in new["names"].keys() - old["names"].keys()]
    found += [f"{name} is gone" for name in old["names"].keys() - set(names())]
    for name in new["names"].keys() & old["names"].keys():
        for each, (status, reason) in new["names"][name]["checks"].items():
            before = old["names"][name]["checks"].get(each, ["nothing"])[0]
            if before != status and each not in optimizer_info(name).default.unsteady:
                found.append(f"{name}, {each}: {before} before, {status} now ({reason})")
    return sorted(found)


def compare(committed: dict[str, Any], wanted: list[str]) -> int:
    """Find the verdicts on some names and hold them against what is committed."""
    stale = [each for each in wanted if committed["names"].get(each, {}).get("fingerprint") != fingerprint(each)]
    matrix = as_json(find(wanted))
    failed, changed = failures(matrix), differences(committed, matrix)
    for each in changed:
        sys.stderr.write(f"CHANGED {each}; run make matrix\n")
    if stale and not changed:
        sys.stderr.write(
            f"{len(stale)} names are not as they were when docs/matrix.json was written, and do what it says;"
            f" to write that: python tools/matrix.py {' '.join(stale[:3])}{' …' if len(stale) > 3 else ''}\n"
        )
    sys.stdout.write(f"{len(matrix['names'])} names, {len(failed)} failures, {len(changed)} changes\n")
    return bool(failed or changed)


def failures(matrix: dict[str, Any]) -> list[str]:
    """Return and say which promises are not kept."""
    failed = [
        f"{name}, {each}: {reason}"
        for name, entry in matrix["names"].items()
        for each, (status, reason) in entry["checks"].items()
        if status == "fail"
    ]
    for each in failed:
        sys.stderr.write(f"FAIL {each}\n")
    return failed


def main(arguments: list[str]) -> int:
    """Find, and write or compare."""
    wanted = [each for each in arguments if not each.startswith("--")]
    committed = json.loads(JSON.read_text(encoding="utf-8")) if JSON.exists() else {"names": {}}
    if "--check" in arguments:
        if wanted or "--all" in arguments:
            return compare(committed, wanted or names())
        changed, sampled = changed_and_sampled(committed)
        sys.stderr.write(f"{len(changed)} changed names: {', '.join(changed) or '-'}\n")
        sys.stderr.write(f"a sample of the others: {', '.join(sampled)}\n")
        return compare(committed, sorted({*changed, *sampled}))
    matrix = as_json(find(wanted or names()))
    if wanted:
        matrix["names"] = dict(sorted({**committed["names"], **matrix["names"]}.items()))
        matrix["versions"] = {**committed["versions"], **matrix["versions"]}
    failed = failures(matrix)
    JSON.write_text(text(matrix), encoding="utf-8")
    PAGE.write_text(page(matrix), encoding="utf-8")
    sys.stdout.write(f"{len(matrix['names'])} names, {len(failed)} failures\n")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
