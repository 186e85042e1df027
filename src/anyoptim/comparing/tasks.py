"""What optimizers are compared on: a task, and the built-in ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from anyoptim.comparing.first_weights import trained_weights
from anyoptim.comparing.stdlib_text import VOCABULARY, prose_bytes, stdlib_bytes

TINY = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4}
"""The sizes of the Llama that the tasks on text train, where nothing else is said."""


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


def text_bytes(
    *,
    sizes: dict[str, int] | None = None,
    length: int = 128,
    batch_size: int = 16,
    steps: int = 200,
    heldout_bytes: int = 50_000,
) -> Task:
    """Predict Python's standard library byte by byte, with a small Llama.

    Args:
        sizes: of its configuration; those of ``TINY`` if ``None``: 0.9 million parameters.
        length: bytes of an example.
        batch_size: examples of a step.
        steps: of a run, where nothing else is said.
        heldout_bytes: of other modules, for the held-out loss.
    """
    train, heldout = stdlib_bytes(length, heldout_bytes=heldout_bytes)
    config = _llama(sizes or TINY, VOCABULARY, 512)
    return Task(
        "bytes",
        lambda: _model(config),
        train,
        heldout,
        summary=f"A Llama of {config.num_hidden_layers} layers predicts Python's standard library byte by"
        f" byte ({len(train) * length / 1e6:.1f} MB to train on, other modules held out); losses in nats per byte.",
        batch_size=batch_size,
        steps=steps,
    )


def prose_after_code(
    *,
    sizes: dict[str, int] | None = None,
    length: int = 128,
    batch_size: int = 16,
    steps: int = 100,
    heldout_bytes: int = 50_000,
    before: int = 300,
) -> Task:
    """Fine-tune on English prose a Llama that was trained on code; arguments as of :func:`text_bytes`.

    Args:
        sizes: of its configuration.
        length: bytes of an example.
        batch_size: examples of a step.
        steps: of a run.
        heldout_bytes: of prose.
        before: steps of AdamW on code, once on a machine.
    """
    code = text_bytes(sizes=sizes, length=length, batch_size=batch_size)
    train, heldout = prose_bytes(length, heldout_bytes=heldout_bytes)
    weights = trained_weights(code.model, code.train, batch_size=batch_size, steps=before)

    def model() -> nn.Module:
        made = code.model()
        made.load_state_dict(weights)
        return made

    return Task(
        "finetune",
        model,
        train,
        heldout,
        summary=f"A Llama that AdamW trained for {before} steps on Python's standard library goes on with the prose of"
        f" its manual ({len(train) * length / 1e6:.1f} MB, the manual's end held out); losses in nats per byte.",
        batch_size=batch_size,
        steps=steps,
    )


def modular_addition(
    *, prime: int = 59, share: float = 0.3, width: int = 128, batch_size: int = 512, steps: int = 2000
) -> Task:
    """Predict (a + b) mod p from some of all pairs, with one transformer layer: accuracy on the others comes late.

    Args:
        prime: p.
        share: of all pairs, those to train on.
        width: hidden size.
        batch_size: examples of a step.
        steps: of a run, where nothing else is said.
    """
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = _llama(sizes, prime + 1, 8)
    pairs = torch.cartesian_prod(torch.arange(prime), torch.arange(prime))
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    count = round(share * len(pairs))
    return Task(
        "modular-addition",
        lambda: _model(config),
        Sums(pairs[order[:count]], prime),
        Sums(pairs[order[count:]], prime),
        summary=f"One transformer layer learns (a + b) mod {prime} from {share:.0%} of all pairs; the others are held"
        " out. Long after the training loss is near zero it may understand: the held-out accuracy rises (grokking).",
        batch_size=batch_size,
        steps=steps,
        weight_decay=1.0,
        accuracy_at=3,
    )


def _llama(sizes: dict[str, int], vocabulary: int, positions: int) -> Any:
    from transformers import LlamaConfig

    made: Any = LlamaConfig
    return made(vocab_size=vocabulary, max_position_embeddings=positions, tie_word_embeddings=False, **sizes)


def _model(config: Any) -> nn.Module:
    from anyoptim.integrations.models import make_model

    made: nn.Module = make_model(config)
    return made


class Sums(Dataset[dict[str, Tensor]]):
    """Examples ``a b = c``, of which ``c`` is to be predicted.

    Args:
        pairs: (n, 2) int64.
        prime: the modulus; also the token of the equals sign.
    """

    def __init__(self, pairs: Tensor, prime: int) -> None:
        sums = pairs.sum(1, keepdim=True) % prime
        self.tokens = torch.cat([pairs, torch.full_like(sums, prime), sums], dim=1)
        self.labels = self.tokens.clone()
        self.labels[:, :3] = -100

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.labels[index]}


TASKS: dict[str, Callable[[], Task]] = {
    "bytes": text_bytes,
    "finetune": prose_after_code,
    "modular-addition": modular_addition,
}
"""The built-in tasks by name."""
