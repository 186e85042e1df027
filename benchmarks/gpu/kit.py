"""The conformance kit on the device: our engines, and names of packages that have kernels of their own there."""

from __future__ import annotations

from collections import Counter

import anyoptim
from anyoptim.errors import MissingPackageError, OptimError
from anyoptim.names.packages import need_transformers
from anyoptim.testing import CHECKS, check_optimizer
from benchmarks.gpu.section import Row, Section, Sizes, section

_ABOUT = (
    "`anyoptim check NAME --device`: our engines, then names of packages whose state is in 8 or 4 bits or paged, then"
    " one name of each other package that is installed. The reasons of single checks are in the JSON."
)
_KERNELS = ("8bit", "4bit", "paged")
_SAME_ANYWHERE = ("DTensor", "typed arguments")
"""Checks that a device cannot change: one is made on two processes of the CPU, one reads text."""


def run(device: str, sizes: Sizes) -> Section:
    """Check every engine and so many names of packages."""
    try:
        need_transformers("The conformance kit")
    except MissingPackageError:
        missing = Row("all names", "not run", "transformers is not installed")
        return section("conformance kit", _ABOUT, [missing.name], lambda _: missing, sizes.deadline)
    names = [*anyoptim.list_optimizers(package="anyoptim"), *catalogue(sizes.catalogue)]
    return section("conformance kit", _ABOUT, names, lambda name: row(name, device, sizes), sizes.deadline)


def row(name: str, device: str, sizes: Sizes) -> Row:
    """Check one name."""
    checks = sizes.checks or [each for each in CHECKS if each not in _SAME_ANYWHERE]
    report = check_optimizer(name, checks=checks, device=device)
    found = Counter(each.status for each in report.verdicts)
    failures = "; ".join(f"{each.check}: {each.reason}" for each in report.failures)
    limits = ", ".join(each.check for each in report.verdicts if each.status == "limit")
    return Row(
        name,
        "pass" if report else "fail",
        failures or (f"limits: {limits}" if limits else ""),
        {status: found[status] for status in ("pass", "fail", "limit", "n/a")},
        {each.check: f"{each.status}: {each.reason}" for each in report.verdicts},
    )


def catalogue(count: int) -> list[str]:
    """Return so many names of installed packages: those with kernels of their own, and one of each package."""
    packages: dict[str, str] = {}
    kernels = []
    for name in anyoptim.list_optimizers(installed=True):
        try:
            package = anyoptim.optimizer_info(name).package
        except OptimError:  # a plug-in that does not load
            continue
        if package == "anyoptim":
            continue
        packages.setdefault(package, name)
        if any(each in name for each in _KERNELS):
            kernels.append(name)
    # plain names first: those with a package before them are often the same class
    kernels.sort(key=lambda name: "/" in name)
    others = [name for name in packages.values() if name not in kernels]
    return [*kernels[: max(1, count - len(others))], *others][:count]
