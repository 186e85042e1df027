"""What optimizers are compared on: two built-in tasks, or one of the user's."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from anyoptim.comparing.stdlib_text import stdlib_bytes
from anyoptim.errors import OptimError, did_you_mean
from anyoptim.text import said, shortened


@dataclass(frozen=True)
class Task:
    """A model and data.

    Args:
        name: as on the command line.
        model: makes a new model; its weights depend on torch's random numbers only.
        train: examples that the Trainer takes.
        heldout: examples for the held-out loss; without them, the end of the training loss takes its place.
        collator: makes a batch of examples; the Trainer's own if ``None``.
        summary: one sentence for a person.
        batch_size: examples of a step.
        steps: of a run, where nothing else is said.
        weight_decay: of every run.
        accuracy_at: the position of the token that is to be predicted, if its accuracy says more than a loss.
    """

    name: str
    model: Callable[[], nn.Module]
    train: Dataset[Any]
    heldout: Dataset[Any] | None
    collator: Callable[[list[Any]], Any] | None = None
    summary: str = ""
    batch_size: int = 16
    steps: int = 200
    weight_decay: float = 0.0
    accuracy_at: int | None = None


def load_task(name: str) -> Task:
    """Find a task by its name, or make the user's.

    Args:
        name: one of ``TASKS``, or ``module:function``. The function takes nothing and returns a :class:`Task`, or
            ``(model, dataset, collator)`` or ``(model, dataset, collator, heldout)``; ``model`` is a module, or a
            function that makes one. It is called once; a module is copied for each run.

    Raises:
        OptimError: there is no such task, its function needs arguments or fails, or returns something else.
    """
    if name in TASKS:
        return TASKS[name]()
    module, colon, function = name.partition(":")
    if not colon:
        raise OptimError(
            f"No task is called {shortened(name)}: take {' or '.join(TASKS)}, or module:function."
            f"{did_you_mean(name, TASKS)}"
        )
    return _task_of(name, _called(name, _find(name, module, function)))


def _find(name: str, module: str, function: str) -> Callable[[], object]:
    """Return the user's function; its module may stand in the folder where the command is run."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise OptimError(
                f"The task {shortened(name)} cannot be loaded: {error}. Install what it imports."
            ) from error
        beside = [each.stem for each in Path.cwd().glob("*.py")]
        raise OptimError(
            f"The task {shortened(name)} cannot be loaded: there is no module {module!r} in {str(Path.cwd())!r} or"
            f" installed; write it as module:function, without .py.{did_you_mean(module.removesuffix('.py'), beside)}"
        ) from error
    except Exception as error:  # whatever the user's module does
        raise OptimError(f"The task {shortened(name)} cannot be loaded: {_said(error)}.") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    made = getattr(found, function, None)
    if not callable(made):
        functions = [each for each, value in vars(found).items() if inspect.isfunction(value)]
        raise OptimError(f"The module {module!r} has no function {function!r}.{did_you_mean(function, functions)}")
    needed = [
        each.name
        for each in inspect.signature(made).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if needed:
        raise OptimError(
            f"The function of the task {shortened(name)} needs {', '.join(needed)}, but is called with nothing; give"
            " its arguments defaults."
        )
    return cast("Callable[[], object]", made)


def _called(name: str, make: Callable[[], object]) -> object:
    try:
        return make()
    except OptimError:
        raise
    except Exception as error:  # whatever the user's function does
        raise OptimError(
            f"The function of the task {shortened(name)} fails: {_said(error)} (--debug shows where)."
        ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {said(error)}"


def _task_of(name: str, made: object) -> Task:
    if isinstance(made, Task):
        return made
    if isinstance(made, tuple) and len(made) in (3, 4):
        model, train, collator, heldout = (*made, None)[:4]
        copies = isinstance(model, nn.Module)
        if (copies or callable(model)) and isinstance(train, Sized) and (collator is None or callable(collator)):
            return Task(name, _copier(model) if copies else model, train, heldout, collator)  # type: ignore[arg-type]  # as checked
    raise OptimError(
        f"The task {shortened(name)} returned {_kind(made)}; it has to return (model, dataset, collator), a fourth"
        " one being the held-out data set, or a Task."
    )


def _kind(made: object) -> str:
    if isinstance(made, (tuple, list)):
        return f"a {type(made).__name__} of {', '.join(type(each).__name__ for each in made) or 'nothing'}"
    return "nothing" if made is None else type(made).__name__


def _copier(model: nn.Module) -> Callable[[], nn.Module]:
    import copy

    return lambda: copy.deepcopy(model)


# ---------------------------------------------------------------- built-in tasks


def text_bytes() -> Task:
    """Predict Python's standard library byte by byte, with a Llama of 0.9 million parameters."""
    from anyoptim.integrations.models import load_config, make_model

    train, heldout = stdlib_bytes(length=128)
    config = load_config("tiny-llama")
    return Task(
        "bytes",
        lambda: make_model(config),
        train,
        heldout,
        summary=f"A Llama of {config.num_hidden_layers} layers predicts Python's standard library byte by"
        f" byte ({len(train) * 128 / 1e6:.1f} MB to train on, other modules held out); losses in nats per byte.",
    )


PRIME = 59
"""The modulus of the modular addition."""


def modular_addition() -> Task:
    """Predict (a + b) mod p from some of all pairs, with one transformer layer: accuracy on the others comes late."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=PRIME + 1,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=8,
        tie_word_embeddings=False,
    )
    pairs = torch.cartesian_prod(torch.arange(PRIME), torch.arange(PRIME))
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    count = len(pairs) * 3 // 10
    return Task(
        "modular-addition",
        lambda: LlamaForCausalLM(config),
        Sums(pairs[order[:count]]),
        Sums(pairs[order[count:]]),
        summary=f"One transformer layer learns (a + b) mod {PRIME} from 30% of all pairs; the others are held out."
        " Long after the training loss is near zero it may understand: the held-out accuracy rises (grokking).",
        batch_size=512,
        steps=2000,
        weight_decay=1.0,
        accuracy_at=3,
    )


class Sums(Dataset[dict[str, Tensor]]):
    """Examples ``a b = c``, of which ``c`` is to be predicted.

    Args:
        pairs: (n, 2) int64.
    """

    def __init__(self, pairs: Tensor) -> None:
        sums = pairs.sum(1, keepdim=True) % PRIME
        self.tokens = torch.cat([pairs, torch.full_like(sums, PRIME), sums], dim=1)
        self.labels = self.tokens.clone()
        self.labels[:, :3] = -100

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.labels[index]}


TASKS: dict[str, Callable[[], Task]] = {"bytes": text_bytes, "modular-addition": modular_addition}
"""The built-in tasks by name."""
