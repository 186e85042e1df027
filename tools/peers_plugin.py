"""A pytest plugin that lets a peer's own tests build their optimizers through anyoptim; ``tools/peers.py`` loads it.

Where a test says ``package.Class(params, lr=...)`` it gets what ``anyoptim.plan(name).construct(params)`` makes of the
name that stands for that class: values read and checked, the class called, mended, stamped and put into its facades.
The class stays the one that the package imports, in all of its registries, and keeps its signature.

It reads ``PEER``, the distribution whose tests run, ``PEER_OUTCOMES``, the file that gets each test's outcome, and
``PEER_PLAIN``, which leaves anyoptim out.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import anyoptim
from anyoptim.names.lookup import optimizer_info
from anyoptim.names.spec import OptimizerSpec

NAME = os.environ["PEER"]
PEER: dict[str, Any] = json.loads(Path(__file__).with_name("peers.json").read_text())[NAME]
_outcomes: dict[str, list[str]] = {}
_built = Counter[str]()
"""How many optimizers each name built."""
_building: list[type[Optimizer]] = []
"""The classes that are being built through anyoptim right now: their constructors run as they are."""
_finished: list[Optimizer] = []
"""What Python is about to initialise once more, since ``__new__`` returned it."""


def pytest_configure(config: pytest.Config) -> None:
    if not torch.cuda.is_available():  # tests of numbers that name a GPU show the same on a CPU
        Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]  # for the peers' tests
    for module, missing in PEER.get("stand-ins", {}).items():
        import_with_stand_ins(module, missing)
    if not os.environ.get("PEER_PLAIN"):
        anyoptim.enable()
        for cls, name in classes():
            build_by_name(cls, name)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return left_out(collection_path.relative_to(config.rootpath).as_posix()) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    dropped = [item for item in items if left_out(item.nodeid)]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in set(dropped)]


def pytest_runtest_setup() -> None:
    torch.manual_seed(0)  # some draw what their tolerance does not fit once in ten times


def left_out(test: str) -> bool:
    """Whether a test, or a file of tests, is not run."""
    return any(re.search(pattern, test) for pattern in PEER.get("left out", {}))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    before = _outcomes.get(report.nodeid, ["passed"])[0]
    if report.failed or before == "passed":
        crash = getattr(report.longrepr, "reprcrash", None)
        said = crash.message if crash else str(report.longrepr or "")
        _outcomes[report.nodeid] = [report.outcome, said]


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _outcomes[report.nodeid] = [report.outcome, str(report.longrepr)[-500:]]


def pytest_testnodedown(node: Any) -> None:
    _built.update(getattr(node, "workeroutput", {}).get("built", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # one of several processes
        session.config.workeroutput["built"] = dict(_built)
    else:
        Path(os.environ["PEER_OUTCOMES"]).write_text(json.dumps({"outcomes": _outcomes, "built": _built}))


def import_with_stand_ins(module: str, missing: list[str]) -> None:
    """Import a module although packages are missing that it imports and its optimizers do not use."""
    for name in missing:
        stand_in: Any = MagicMock(name=name)
        stand_in.__path__ = []
        sys.modules[name] = stand_in
    importlib.import_module(module)
    for name in missing:  # nobody else shall take them for real
        del sys.modules[name]


def classes() -> Iterator[tuple[type[Optimizer], str]]:
    """Yield the peer's classes and the name that builds each of them from groups of a caller's own."""
    names = defaultdict(list)
    for name in anyoptim.list_optimizers(package=NAME, installed=True):
        spec = optimizer_info(name)
        cls = spec.default.load() if takes_any_groups(spec) else None
        if isinstance(cls, type) and cls.__module__.startswith(spec.default.class_path.partition(".")[0]):
            names[cls].append(name)
    for cls, found in names.items():
        own = inspect.signature(cls).parameters
        yield cls, min(found, key=lambda name: (_other_defaults(name, own), name))


def takes_any_groups(spec: OptimizerSpec) -> bool:
    """Whether it can be built on groups that are not of our routing, by a loop of the caller's own."""
    return not (spec.traits.needs_targets or spec.fallback or spec.default.unusable)


def _other_defaults(name: str, own: Any) -> int:
    """Count what a name sets otherwise than its class: timm's ``cadamw`` is a class of other names, ``caution`` set."""
    default = {each.keyword: each.default for each in optimizer_info(name).hyperparameters}
    return sum(key not in default or default[key] != each.default for key, each in own.items())


def build_by_name(cls: type[Optimizer], name: str) -> None:
    """Let every call of a class build through anyoptim; subclasses and copies are made as before."""
    made, init = cls.__new__, cls.__init__

    @functools.wraps(init)
    def new(this: type[Optimizer], *args: Any, **keywords: Any) -> Optimizer:
        if this is not cls or _building or not (args or keywords):
            return made(this) if made is object.__new__ else made(this, *args, **keywords)
        _building.append(cls)
        try:
            optimizer = build(cls, name, args, keywords)
        finally:
            _building.pop()
        if isinstance(optimizer, cls):
            _finished.append(optimizer)
        return optimizer

    @functools.wraps(init)
    def initialise(self: Optimizer, *args: Any, **keywords: Any) -> None:
        if _finished and _finished[-1] is self:
            _finished.clear()
        else:
            init(self, *args, **keywords)

    cls.__new__ = new  # type: ignore[method-assign,assignment]  # in its place, so that registries keep it
    cls.__init__ = initialise  # type: ignore[method-assign]  # as above


def build(cls: type[Optimizer], name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> Optimizer:
    """Build through anyoptim. What it refuses has to be refused by the class, too: then in the class's words.

    A plan holds plain numbers, so a rate that is a tensor goes into the groups afterwards.
    """
    signature = inspect.signature(cls)
    try:
        bound = signature.bind(*args, **keywords).arguments
    except TypeError:
        return cls(*args, **keywords)
    first, *_ = signature.parameters
    params = bound.pop(first)
    params = list(params) if isinstance(params, Iterable) else params
    for each in [key for key in bound if signature.parameters[key].kind is inspect.Parameter.VAR_KEYWORD]:
        bound.update(bound.pop(each))
    tensors = {key: value for key, value in bound.items() if isinstance(value, Tensor)}
    numbers = {key: value.item() for key, value in tensors.items()}
    takes_groups = optimizer_info(name).default.takes_groups
    model = None if takes_groups else params if isinstance(params, nn.Module) else nn.ParameterList(params)
    try:
        plan = anyoptim.plan(name, model, optim_args={**bound, **numbers})
        if not isinstance(params, (list, nn.Module)):  # nothing to optimize: how a test asks for a refusal
            return cls(params, **bound)
        optimizer = plan.construct(params)
    except anyoptim.OptimError:
        cls(params, **bound)
        raise
    for group in optimizer.param_groups:
        group.update({key: tensors[key] for key, number in numbers.items() if group.get(key) == number})
    _built[name] += 1
    return optimizer
