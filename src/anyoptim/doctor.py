"""What is installed here, which names can be built with it, and whether ``enable()`` fits this transformers."""

from __future__ import annotations

import platform
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import anyoptim
from anyoptim.errors import OptimError
from anyoptim.names.registry import list_optimizers, listed

LIBRARIES = ("torch", "transformers", "accelerate", "numpy", "peft", "trl", "deepspeed")
"""What runs the optimizers; the packages behind them are asked of the catalogue."""


@dataclass(frozen=True)
class Package:
    """A package behind names of the catalogue.

    Args:
        name: as pip names it.
        version: ``None`` if it is not installed.
        names: how many names it backs.
        install: the command that installs it.
        licence: of its code.
    """

    name: str
    version: str | None
    names: int
    install: str
    licence: str


@dataclass(frozen=True)
class Checkup:
    """What :func:`examine` finds.

    Args:
        versions: of Python, anyoptim and the libraries; ``None`` if one is not installed.
        devices: what torch can compute on here, each with what it is.
        packages: those behind the catalogue's names.
        buildable: how many names can be built here.
        elsewhere: the names that cannot, by the reason.
        enable: ``None`` if ``enable()`` fits this transformers, else the reason why it does not.
    """

    versions: dict[str, str | None]
    devices: dict[str, str]
    packages: tuple[Package, ...]
    buildable: int
    elsewhere: dict[str, list[str]]
    enable: str | None

    def to_dict(self) -> dict[str, object]:
        """Return it as plain values that JSON can hold."""
        return asdict(self)


def examine() -> Checkup:
    """Look at this machine; imports torch, and transformers for as long as ``enable()`` is tried."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "anyoptim": anyoptim.__version__}
    versions |= {name: _version(name) for name in LIBRARIES}
    buildable, elsewhere = _names()
    return Checkup(versions, _devices(), _packages(), buildable, elsewhere, _enable_fits())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _packages() -> tuple[Package, ...]:
    defaults = [listed(name).default for name in list_optimizers()]
    counts = Counter(each.package for each in defaults)
    by_name = {each.package: each for each in defaults if each.package not in ("anyoptim", "torch", "transformers")}
    return tuple(
        Package(name, _version(name), counts[name], by_name[name].pip_install, by_name[name].licence or "not stated")
        for name in sorted(by_name)
    )


def _names() -> tuple[int, dict[str, list[str]]]:
    import torch

    buildable = 0
    elsewhere: dict[str, list[str]] = {}
    for name in list_optimizers():
        each = listed(name).default
        device = getattr(torch, each.device, None) if each.device else None
        if not each.installed:
            reason = each.pip_install
        elif each.device and not (device is not None and device.is_available()):
            reason = f"needs {each.device}"
        elif each.unusable:
            reason = each.unusable
        elif each.needs_process_group:
            reason = "needs torch.distributed: launch with torchrun"
        else:
            buildable += 1
            continue
        elsewhere.setdefault(reason, []).append(name)
    return buildable, elsewhere


def _devices() -> dict[str, str]:
    import torch
    import torch.distributed

    found = {"cpu": f"{torch.get_num_threads()} threads"}
    if torch.accelerator.is_available():
        current = torch.accelerator.current_accelerator()
        assert current is not None
        module = torch.get_device_module(current)
        name = getattr(module, "get_device_name", lambda _: current.type)(0)
        found[current.type] = f"{torch.accelerator.device_count()} x {name}"
    if torch.distributed.is_available():
        names = [each for each in ("nccl", "gloo", "mpi", "ucc", "xccl") if _has_backend(each)]
        found["distributed"] = ", ".join(names)
    return found


def _has_backend(name: str) -> bool:
    import torch.distributed

    return torch.distributed.is_backend_available(name)


def _enable_fits() -> str | None:
    """Try ``enable()``, a name, and ``disable()``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with anyoptim.enable():
                from transformers.training_args import OptimizerNames

                OptimizerNames("apollo_mini")
    except OptimError as error:
        return str(error)
    except Exception as error:  # another version may differ in any way
        return f"enable() does not fit transformers {_version('transformers')}: {type(error).__name__}: {error}"
    return None
