from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import hypothesis
import pytest
import torch
from progress import Progress
from toys import data

import anyoptim
from anyoptim.names import registry

torch.set_num_threads(1)
# new examples on a developer's machine, the same ones in every CI run; no assert on a clock
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist tells the process that prints
        config.pluginmanager.register(Progress())


@pytest.fixture
def enabled() -> Iterator[None]:
    with anyoptim.enable():
        yield
    anyoptim.disable()  # where a test has called enable() once more


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


@pytest.fixture(autouse=True)
def short_collections() -> Iterator[None]:
    """Keep what is imported out of the full collections that accelerate asks for after every run."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Bytes as tokens, made here: no hub is needed."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    model = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="!", eos_token='"')


@pytest.fixture(scope="session")
def texts() -> Any:
    from datasets import Dataset

    examples = data()
    rows = [bytes(examples[index]["input_ids"].tolist()).decode("latin-1") for index in range(256)]
    return Dataset.from_dict({"text": rows})


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture
def multiplied_as_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices are multiplied as large ones are, one at a time, and stacks in bf16 on every CPU."""
    monkeypatch.setattr("anyoptim.engines.orthogonal.SMALL", 0)
    monkeypatch.setattr("anyoptim.engines.orthogonal._MULTIPLIES_BF16", True)
