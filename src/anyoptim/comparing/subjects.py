"""What two optimizers are tried on: a task, or the model of a configuration on bytes of text."""

from __future__ import annotations

from anyoptim.comparing.stdlib_text import VOCABULARY, stdlib_bytes
from anyoptim.comparing.task_loading import load_task
from anyoptim.comparing.tasks import Task
from anyoptim.errors import OptimError
from anyoptim.integrations.models import load_config, make_model
from anyoptim.text import shortened

MOST = 200_000_000
"""Parameters of a model that a few dozen steps can train on a CPU while somebody waits."""
_LENGTH, _BATCH = 64, 4


def subject(model: str | None, task: str | Task | None) -> Task:
    """Return what is trained.

    Args:
        model: what ``--model`` takes; it gets random weights, and its vocabulary becomes that of bytes.
        task: a task, or what ``--task`` takes; ``bytes`` if both are ``None``.

    Raises:
        OptimError: there is no such model or task, both are given, or the model is too large.
    """
    if model is None:
        return task if isinstance(task, Task) else load_task(task or "bytes")
    if task not in (None, "bytes"):
        name = task.name if isinstance(task, Task) else task
        raise OptimError(f"The task {shortened(name)} has a model of its own; give --model or --task, not both.")
    config = load_config(model)
    text = config.get_text_config()
    if getattr(text, "vocab_size", 0) > VOCABULARY:
        text.vocab_size = VOCABULARY
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(text, token, None)
    count = sum(each.numel() for each in make_model(config, device="meta").parameters())
    if count > MOST:
        raise OptimError(
            f"{model} has {count / 1e6:,.0f} million parameters beside its vocabulary, too many for trial steps here;"
            " write its config.json with fewer layers: how far updates go depends on the matrices' shapes, not on"
            " their number."
        )
    length = min(_LENGTH, getattr(text, "max_position_embeddings", None) or _LENGTH)
    train, heldout = stdlib_bytes(length)
    return Task(f"{model} on bytes", lambda: make_model(config), train, heldout, batch_size=_BATCH)
