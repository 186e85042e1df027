"""Writes the indexes of the catalogue from the packages that are installed here: ``make catalogue``.

With names as arguments, only these packages' indexes. ``--check`` writes nothing and fails if one is stale.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
import typing
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal, Union

import torch

from anyoptim.catalog._index import FOLDER
from anyoptim.catalog._keywords import encoded_default
from anyoptim.names.hyperparameters import REQUIRED
from anyoptim.names.signatures import hyperparameters_of

Found = Iterator[tuple[str, Callable[..., object], dict[str, object]]]
"""Name, constructor, and defaults that differ from its own."""


def pytorch_optimizer() -> Found:
    package = importlib.import_module("pytorch_optimizer")
    for name in package.get_supported_optimizers():
        yield name, package.load_optimizer(name), {}


def timm() -> Found:
    # its __init__ imports torchvision
    found = find_spec("timm")
    assert found is not None
    for name, path in (("timm", list(found.submodule_search_locations or ())), ("timm.models", [])):
        module: Any = types.ModuleType(name)
        module.__path__ = path
        module.group_parameters = None
        sys.modules[name] = module
    factory = importlib.import_module("timm.optim._optim_factory")
    for name, info in factory.default_registry._optimizers.items():
        constructor = info.opt_class
        if isinstance(constructor, str):
            module_name, _, attribute = constructor.rpartition(".")
            if find_spec(module_name.partition(".")[0]) is None:
                continue  # apex
            constructor = getattr(importlib.import_module(module_name), attribute)
        # as timm's own factory does
        yield name, constructor, {**({"momentum": 0.9} if info.has_momentum else {}), **(info.defaults or {})}


def classes(module_name: str, *, leave_out: tuple[str, ...] = ()) -> Callable[[], Found]:
    def find() -> Found:
        module = importlib.import_module(module_name)
        for name in getattr(module, "__all__", None) or dir(module):
            found = getattr(module, name, None)
            if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
                continue
            if name not in ("Optimizer", *leave_out) and not name.startswith("_"):
                yield snake(name), found, {}

    return find


def snake(name: str) -> str:
    """``PagedAdamW8bit`` to ``paged_adamw_8bit``."""
    lower = name.lower()
    for suffix in ("8bit", "4bit", "32bit", "fp8"):
        if lower.endswith(suffix):
            lower = f"{lower.removesuffix(suffix)}_{suffix}"
    return f"paged_{lower.removeprefix('paged')}" if lower.startswith("paged") else lower


WRITTEN_BY_HAND = ("Adagrad", "AdamW", "Muon", "RMSprop", "SGD")
SOURCES: dict[str, tuple[str, Callable[[], Found]]] = {
    "adam_mini": ("adam-mini", classes("adam_mini")),
    "bitsandbytes": ("bitsandbytes", classes("bitsandbytes.optim")),
    "came_pytorch": ("came-pytorch", classes("came_pytorch")),
    "heavyball": ("heavyball", classes("heavyball", leave_out=("SplitOpt", "SAMWrapper"))),
    "lion_pytorch": ("lion-pytorch", classes("lion_pytorch")),
    "optimi": ("torch-optimi", classes("optimi", leave_out=("StableAdamW",))),
    "prodigyopt": ("prodigyopt", classes("prodigyopt")),
    "pytorch_optimizer": ("pytorch_optimizer", pytorch_optimizer),
    "schedulefree": (
        "schedulefree",
        classes("schedulefree", leave_out=("AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree")),
    ),
    "timm": ("timm", timm),
    "torch": ("torch", classes("torch.optim", leave_out=WRITTEN_BY_HAND)),
    "torchao": ("torchao", classes("torchao.optim", leave_out=("CPUOffloadOptimizer",))),
}


def index(module: str) -> dict[str, Any]:
    package, find = SOURCES[module]
    optimizers = {}
    for name, constructor, defaults in sorted(find(), key=lambda each: each[0]):
        rows: list[list[object]] = []
        for each in hyperparameters_of(constructor):
            default = defaults.get(each.name, each.default)
            kind = encoded(each.type)
            if default is None and kind != "any" and "none" not in json.dumps(kind):
                kind = ["union", kind, "none"]  # annotated as what it is when given
            rows.append([each.name, kind, *([] if default is REQUIRED else [encoded_default(default)])])
        optimizers[name] = {"class": f"{constructor.__module__}:{constructor.__qualname__}", "hyperparameters": rows}
    return {"package": package, "version": version(package), "optimizers": optimizers}


def encoded(annotation: Any) -> object:
    """Return an annotation as text or a list; tensors are left to those who call a constructor themselves."""
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    simple = {float: "float", int: "int", bool: "bool", str: "str", type(None): "none", torch.dtype: "dtype"}
    if annotation in simple:
        return simple[annotation]
    if origin in (Union, types.UnionType):
        known = [each for each in arguments if each is not torch.Tensor and encoded(each) != "any"]
        if len(known) + (torch.Tensor in arguments) < len(arguments):
            return "any"
        return encoded(known[0]) if len(known) == 1 else ["union", *(encoded(each) for each in known)]
    if origin is Literal:
        plain = [each for each in arguments if isinstance(each, (str, int, bool, type(None)))]
        return ["literal", *plain] if len(plain) == len(arguments) else "any"
    if origin is tuple and arguments:
        return ["tuple", *("..." if each is ... else encoded(each) for each in arguments)]
    if origin is list and arguments:
        return ["list", encoded(arguments[0])]
    return "function" if origin is not None and "Callable" in str(origin) else "any"


def text(module: str) -> str:
    """Return an index as JSON with one hyperparameter a line."""
    found = index(module)
    lines = [f' "{key}": {json.dumps(found[key])},' for key in ("package", "version")]
    entries = []
    for name, entry in found["optimizers"].items():
        rows = ",\n".join(f"    {json.dumps(row)}" for row in entry["hyperparameters"])
        entries.append(
            f'  "{name}": {{\n   "class": {json.dumps(entry["class"])},\n   "hyperparameters": [\n{rows}\n   ]\n  }}'
        )
    body = ",\n".join(entries)
    return "\n".join(["{", *lines, f' "optimizers": {{\n{body}\n }}', "}", ""])


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    wanted = [each for each in arguments if each != "--check"] or list(SOURCES)
    stale = []
    for module in wanted:
        path = FOLDER / f"{module}.json"
        new = text(module)
        if check:
            stale += [module] if path.read_text(encoding="utf-8") != new else []
        else:
            path.write_text(new, encoding="utf-8")
    if stale:
        sys.stderr.write(f"stale: {', '.join(stale)}; run make catalogue\n")
    return bool(stale)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
