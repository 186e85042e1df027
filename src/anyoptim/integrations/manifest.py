"""The manifest of a checkpoint: which files a save has written, so that a resume sees whether they are still these.

It is written beside ``trainer_state.json`` when all else is there, by a thread, since hashing takes as long as writing:
a save does not wait for it. A checkpoint without one, transformers' own or of a run that was killed meanwhile, is
resumed as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from anyoptim.errors import CheckpointError

NAME = "anyoptim_manifest.json"
_CHUNK = 1 << 22


class _Written(NamedTuple):
    """A file as it was saved: bytes, and the SHA-256 of them."""

    size: int
    sha256: str


class Manifests:
    """Writes the manifests of one run's checkpoints, one after another, each after its save.

    Every save calls :meth:`begin`, :meth:`complete` when the files of this process are there, and :meth:`write` when
    those of all processes are.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="anyoptim-manifest")
        self._waiting: tuple[Path, int] | None = None
        self._running: Future[None] | None = None

    def begin(self, checkpoint: Path) -> None:
        """Wait for the manifest before, since a save may delete older checkpoints, and forget that of this one."""
        self.write()
        if self._running is not None:
            self._running.result()
        (checkpoint / NAME).unlink(missing_ok=True)

    def complete(self, checkpoint: Path, step: int) -> None:
        """Say which checkpoint is complete; callbacks may still change it until :meth:`write`."""
        self._waiting = (checkpoint, step)

    def write(self) -> None:
        """Begin to write the manifest of what is complete, if there is one."""
        if self._waiting is not None:
            self._running = self._thread.submit(write_manifest, *self._waiting)
            self._waiting = None

    def finish(self, alone: bool) -> None:
        """Wait for the last manifest.

        Args:
            alone: whether this is the only process, so that a save that :meth:`write` did not follow, as the
                emergency one, is complete.
        """
        if alone:
            self.write()
        self._thread.shutdown()


def write_manifest(checkpoint: Path, step: int) -> None:
    """Write the manifest of a folder, at once or not at all; a folder that is gone meanwhile needs none.

    Args:
        checkpoint: the folder.
        step: of the trainer's state in it.
    """
    try:
        files = {name: _read(checkpoint / name) for name in sorted(_files(checkpoint))}
        text = json.dumps({"step": step, "files": {name: each._asdict() for name, each in files.items()}}, indent=1)
        unfinished = checkpoint / f"{NAME}.{os.getpid()}"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(checkpoint / NAME)
    except FileNotFoundError:
        return
    except OSError as error:
        warnings.warn(f"The checkpoint {checkpoint} is saved without its {NAME}: {error.strerror}.", stacklevel=2)


class Manifest(NamedTuple):
    """What a checkpoint should hold."""

    step: int
    files: dict[str, _Written]

    def flaw(self, checkpoint: Path, part: slice = slice(None)) -> str:
        """Return what is not as it was written, or "".

        Args:
            checkpoint: the folder.
            part: which of the files are read; sizes are compared of all.
        """
        for name, written in self.files.items():
            path = checkpoint / name
            if not path.is_file():
                return f"its {name} is {'no file' if path.exists() else 'missing'}"
            if path.stat().st_size != written.size:
                return f"its {name} has {path.stat().st_size} bytes, {written.size} were written"
        for name in [*self.files][part]:
            try:
                differs = _read(checkpoint / name) != self.files[name]
            except OSError:
                return f"its {name} cannot be read"
            if differs:
                return f"its {name} is not what was written"
        return ""


def read_manifest(checkpoint: Path) -> Manifest | None:
    """Return the manifest of a folder; ``None`` if it has none.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = checkpoint / NAME
    if not path.exists():
        return None
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        files = {str(name): _Written(**each) for name, each in held["files"].items()}
        step = held["step"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"its {NAME} is damaged") from error
    well_formed = isinstance(step, int) and all(isinstance(each.size, int) for each in files.values())
    if not well_formed or not files:
        raise CheckpointError(f"its {NAME} is damaged")
    return Manifest(step, files)


def _files(checkpoint: Path) -> Iterator[str]:
    for folder, _, names in os.walk(checkpoint):
        for name in names:
            if not name.startswith(NAME):
                yield Path(folder, name).relative_to(checkpoint).as_posix()


def _read(path: Path) -> _Written:
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return _Written(size, digest.hexdigest())
