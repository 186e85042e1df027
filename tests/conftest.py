from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import hypothesis
import pytest
import torch

import anyoptim
from anyoptim import registry

torch.set_num_threads(1)
# new examples on a developer's machine, the same ones in every CI run; no assert on a clock
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture
def enabled() -> Iterator[None]:
    with anyoptim.enable():
        yield


@pytest.fixture
def restored_registry() -> Iterator[None]:
    """Forget what a test registers."""
    before = set(registry.known_names())
    yield
    for name in set(registry.known_names()) - before:
        registry.unregister(name)


@pytest.fixture(autouse=True)
def quiet_advice() -> Iterator[None]:
    """Advice is a UserWarning; tests about it look at the plan or use pytest.warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="anyoptim|transformers|accelerate", category=UserWarning)
        yield
