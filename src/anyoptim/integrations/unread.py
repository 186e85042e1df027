"""What of a checkpoint cannot be read is said in our words, with the file's name and without advice to unpickle."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader

from anyoptim.errors import CheckpointError, OptimError
from anyoptim.integrations.whole import recorded

WEIGHTS, OPTIMIZER = "weights", "optimizer state"


@contextmanager
def in_our_words(checkpoint: Path, what: str) -> Iterator[None]:
    """Raise a ``CheckpointError`` for what cannot be read of a checkpoint, or does not fit.

    Weights that can be read and do not fit are transformers' affair: its error stays.

    Args:
        checkpoint: what is read.
        what: is loaded, for the message.

    Raises:
        CheckpointError: with the file's name where it is damaged.
    """
    try:
        yield
    except (OptimError, torch.OutOfMemoryError):
        raise
    except CheckpointException as error:  # one error a rank, and no Exception
        first, *_ = (each for each, _ in error.failures.values())
        raise _unread(checkpoint, what, first) from error
    except Exception as error:
        if what == WEIGHTS and not _unreadable(checkpoint) and not _is_damage(error):
            raise
        raise _unread(checkpoint, what, error) from error


def _unread(checkpoint: Path, what: str, error: BaseException) -> CheckpointError:
    """Return what to raise; good state that does not fit is not damaged."""
    file = _unreadable(checkpoint)
    if file or what != OPTIMIZER or _is_damage(error):
        return CheckpointError(
            f"The checkpoint {checkpoint} is damaged: its {file or what} cannot be read. Resume from another"
            " checkpoint."
        )
    wrote = recorded(checkpoint).get("name", "an optimizer that it does not name")
    return CheckpointError(
        f"The {what} in {checkpoint}, written by {wrote}, does not fit: {_reason(error)}."
        " Resume with the model and the settings that it was written with."
    )


def _is_damage(error: BaseException) -> bool:
    """Whether an error comes from the bytes of a file: a state of objects of other classes is whole."""
    if isinstance(error, pickle.UnpicklingError):
        return _STRANGER not in str(error)
    return isinstance(error, (EOFError, OSError, SafetensorError)) or "PytorchStreamReader" in str(error)


def _reason(error: BaseException) -> str:
    if isinstance(error, pickle.UnpicklingError):  # whose text is advice to unpickle
        return "it holds objects of classes that are not loaded"
    return (str(error).partition("\n")[0] or type(error).__name__).rstrip(".")


# ---------------------------------------------------------------- looking for the file


def _unreadable(checkpoint: Path) -> str:
    """Return the first file that cannot be read, by its name in the checkpoint, or ""."""
    for path in sorted(checkpoint.rglob("*")):
        read = _READERS.get(path.suffix or path.name)
        try:
            if read is not None:
                read(path)
        except Exception as error:  # bytes that were changed may be any program of the unpickler
            if _STRANGER not in str(error):
                return path.relative_to(checkpoint).as_posix()
    return ""


def _read_tensors(path: Path) -> None:
    torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        file.keys()


def _read_json(path: Path) -> None:
    json.loads(path.read_text(encoding="utf-8"))


def _read_metadata(path: Path) -> None:
    FileSystemReader(path.parent).read_metadata()


_STRANGER = "Unsupported global"  # torch's words
_READERS: Mapping[str, Callable[[Path], None]] = {
    ".pt": _read_tensors,
    ".pth": _read_tensors,
    ".bin": _read_tensors,
    ".safetensors": _read_safetensors,
    ".json": _read_json,
    ".metadata": _read_metadata,
}
