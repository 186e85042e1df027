"""What the verdicts on a name depend on, as one digest: its spec, its engine, its mends, its packages' versions."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyoptim.building import mends
from anyoptim.names.lookup import optimizer_info
from anyoptim.names.spec import Implementation, OptimizerSpec

if TYPE_CHECKING:
    import grimp

ENGINES = "anyoptim.engines."
SOURCES = Path(__file__).parent.parent / "src"


def fingerprint(name: str) -> str:
    """Return the digest of a name: the same in every process, another one once a verdict may be another."""
    spec = optimizer_info(name)
    parts = [plain(spec)]
    for implementation in _implementations(spec):
        parts += [source_of(module) for module in engine_modules(implementation.class_path)]
        parts += [source_of_mend(each) for each in implementation.mends]
        parts.append(f"{implementation.package} {_version(implementation.package)}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def plain(value: object) -> str:
    """Write a value of a spec so that equal ones are equal texts, whatever the order of sets and mappings."""
    if is_dataclass(value) and not isinstance(value, type):
        # a text of help decides no verdict
        held = ((each.name, getattr(value, each.name), _default(each)) for each in fields(value) if each.name != "help")
        # without what is as by default, so that a new field is news of those only that set it
        inside = ", ".join(f"{name}={plain(one)}" for name, one, default in held if one != default)
        return f"{type(value).__name__}({inside})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{plain(key)}: {plain(each)}' for key, each in value.items()))}}}"
    if isinstance(value, (frozenset, set)):
        return f"{{{', '.join(sorted(map(plain, value)))}}}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(plain, value))})"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    return repr(value)


def _default(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


def engine_modules(class_path: str) -> list[str]:
    """Return the module of an engine of ours and the engine modules that it is made of; none for other classes."""
    module = class_path.partition(":")[0]
    if not module.startswith(ENGINES):
        return []
    return sorted({module, *(each for each in _imports().find_upstream_modules(module) if each.startswith(ENGINES))})


@cache
def source_of(module: str) -> str:
    """Return the source of a module of anyoptim."""
    return (SOURCES / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


@cache
def source_of_mend(name: str) -> str:
    """Return the source of a mend, and of the helpers that all of them share."""
    helpers = [each for own, each in vars(mends).items() if inspect.isfunction(each) and own.startswith("_")]
    return "".join(map(inspect.getsource, [getattr(mends, name), *helpers]))


@cache
def _imports() -> grimp.ImportGraph:
    import grimp

    return grimp.build_graph("anyoptim", cache_dir=None)


def _implementations(spec: OptimizerSpec) -> Iterator[Implementation]:
    """Yield the implementations that are checked: the default one, and of what belongs to it."""
    yield spec.default
    for each in (*spec.wrappers, *((spec.fallback,) if spec.fallback else ())):
        yield from _implementations(each)


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
