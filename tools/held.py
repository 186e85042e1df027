"""Writes what decides how each name's state may be held between steps: ``make held``; a quarter of an hour.

Of each name whose step needs one parameter alone it is tried which keys of its state hold weights, which have a
parameter's shape by chance, and whether a step is element-wise. With names as arguments only these are tried.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor

import anyoptim.catalog
from anyoptim.catalog._held import HELD, KEYS
from anyoptim.catalog._index import FOLDER, read_index
from anyoptim.names.composing import STORED_SETTINGS
from anyoptim.names.lookup import optimizer_info
from anyoptim.names.registry import list_optimizers
from anyoptim.names.spec import OptimizerSpec
from anyoptim.testing.pieces import is_elementwise
from anyoptim.testing.subject import Subject

ALIKE = 0.9
"""The cosine from which state is taken for weights: what is made of random gradients has none."""


def paths() -> dict[str, str]:
    """Return the names to try, by what ``held.json`` calls them."""
    every = {f"{file.stem}/{own}": f"{file.stem}/{own}" for file in FOLDER.glob("*.json") for own in _index(file.stem)}
    for found in pkgutil.iter_modules(anyoptim.catalog.__path__):
        if not found.name.startswith("_"):
            for spec in importlib.import_module(f"anyoptim.catalog.{found.name}").SPECS:
                if isinstance(spec, OptimizerSpec) and spec.fallback is None:
                    every.setdefault(spec.default.class_path, spec.name)
    for name in list_optimizers():  # ours that are made for a hybrid only
        spec = optimizer_info(name)
        if spec.fallback is not None and spec.default.package == "anyoptim":
            every.setdefault(spec.default.class_path, name)
    return {path: name for path, name in sorted(every.items()) if _takes_storage(name)}


def _index(stem: str) -> Iterator[str]:
    yield from read_index(stem)["optimizers"]


def _takes_storage(name: str) -> bool:
    spec = optimizer_info(name)
    default = spec.default
    return spec.is_wrapper or (
        default.installed
        and not (default.unusable or default.needs_process_group or default.device)
        and any(each.name in STORED_SETTINGS for each in default.hyperparameters)
    )


def tried(name: str) -> dict[str, Any]:
    """Return what is found of a name."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        subject = Subject(name)
        model = subject.model()
        optimizer = subject.build(model, learning_rate=1e-6)
        for seed in range(3):
            for number, each in enumerate(model.parameters()):
                generator = torch.Generator().manual_seed(100 * seed + number)
                each.grad = torch.randn(each.shape, generator=generator)
            optimizer.step()
        shaped: dict[bool, set[str]] = {True: set(), False: set()}
        weights: set[str] = set()
        for parameter, state in optimizer.state.items():
            if isinstance(parameter, Tensor) and parameter.dim() == 2:
                square = parameter.shape[0] == parameter.shape[1]
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        shaped[square].add(str(key))
                        if value.is_floating_point() and _cosine(value, parameter) > ALIKE:
                            weights.add(str(key))
        found: dict[str, Any] = {
            "weights_in_state": sorted(weights),
            "exact_state": sorted(shaped[True] - shaped[False]),
        }
        alone = not optimizer_info(name).is_wrapper and is_elementwise(Subject(name))
    except Exception as error:  # a stranger's optimizer may raise anything
        sys.stderr.write(f"{name}: {type(error).__name__}: {error}\n")
        return {}
    return {**found, "elementwise": alone}


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.double().flatten(), other.double().detach().flatten(), 0))


def main(wanted: list[str]) -> None:
    """Try, and write what is found."""
    every = {path: name for path, name in paths().items() if not wanted or name in wanted or path in wanted}
    written = json.loads(HELD.read_text(encoding="utf-8"))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = dict(zip(every, pool.map(tried, every.values(), chunksize=4), strict=True))
    kept = {path for path in written["elementwise"] if path not in every}
    alone = sorted(kept | {path for path, each in found.items() if each.get("elementwise")})
    made: dict[str, Any] = {"elementwise": alone}
    for field in KEYS:
        kept_keys = {path: keys for path, keys in written[field].items() if path not in every}
        made[field] = dict(
            sorted((kept_keys | {path: each[field] for path, each in found.items() if each.get(field)}).items())
        )
    HELD.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    sys.stderr.write(f"{len(found)} names, {len(alone)} element-wise\n")


if __name__ == "__main__":
    main(sys.argv[1:])
