"""Which checkpoint a run resumes from: one that is whole. All processes of a run take the same."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anyoptim.engines.distributed import several_processes
from anyoptim.errors import CheckpointError
from anyoptim.integrations import manifest
from anyoptim.integrations.reports import OptimizerRecord

STATE = "trainer_state.json"
_FILES = {".json", ".pt", ".pth", ".bin", ".safetensors"}
_UNFINISHED = "checkpoint-is-incomplete.txt"  # transformers' own sentinel of an emergency save


def whole_checkpoint(wanted: Any, output_dir: str) -> Any:
    """Return the checkpoint to resume from: a path that is whole, or for ``True`` the last one that is.

    The sentences begin with transformers' own words, by which scripts know them.

    Raises:
        CheckpointError: it is not whole, or none is.
    """
    if isinstance(wanted, (str, os.PathLike)):
        flaw = _flaw(Path(wanted))
        if flaw:
            last = next((each for each in _checkpoints(Path(wanted).parent) if not _flaw(each)), None)
            mend = f"Resume from {last}, the last whole one." if last else "Start without resuming."
            if not last and Path(wanted, manifest.NAME).exists():
                mend = f"If it was changed on purpose, delete its {manifest.NAME}."
            raise CheckpointError(f"Can't find a valid checkpoint at {wanted}: {flaw}. {mend}")
        return wanted
    if wanted is not True:
        return wanted
    skipped: list[str] = []
    for folder in _checkpoints(Path(output_dir)):
        flaw = _flaw(folder)
        if not flaw:
            if skipped:
                warnings.warn(
                    f"Resuming from {folder}, the last whole checkpoint: {skipped[0]}.",
                    stacklevel=4,
                )
            return str(folder)
        skipped.append(f"{folder} is not ({flaw})")
    if skipped:
        raise CheckpointError(
            f"No valid checkpoint found in output directory ({output_dir}): {skipped[0]}. Start without resuming."
        )
    return wanted


def trainer_state(checkpoint: Path) -> dict[str, Any]:
    """Return what ``trainer_state.json`` holds, as far as it is a trainer's state; else an empty one."""
    from transformers import TrainerState

    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        TrainerState(**state)  # what the Trainer makes of it
    except (OSError, ValueError, TypeError, RecursionError):
        return {}
    return dict(state)


def recorded(checkpoint: Path) -> dict[str, Any]:
    """Return what the checkpoint's trainer state says of the optimizer that ran, if anything."""
    found: Any = trainer_state(checkpoint)
    for key in ("stateful_callbacks", OptimizerRecord.__name__, "attributes"):
        found = found.get(key, {}) if isinstance(found, dict) else {}
    return found if isinstance(found, dict) else {}


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders in a folder that all processes see, the last one first."""
    found = {each.name for each in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", each.name)}
    common = set.intersection(*_of_all_processes(found))
    return [folder / name for name in sorted(common, key=lambda name: int(name.rpartition("-")[2]), reverse=True)]


def _flaw(checkpoint: Path) -> str:
    """Return why a checkpoint is not whole, or "": what any process of the run finds."""
    try:
        written = manifest.read_manifest(checkpoint)
        flaw = _flaw_of_state(checkpoint) or _flaw_of_step(checkpoint, written)
    except CheckpointError as error:
        written, flaw = None, str(error)
    # those that see the same manifest share the work
    everybody = _of_all_processes((flaw, written))
    flaw = _first(flaw for flaw, _ in everybody)
    if not flaw and written is not None:
        readers = [number for number, (_, each) in enumerate(everybody) if each == written]
        flaw = written.flaw(checkpoint, slice(readers.index(_process()), None, len(readers)))
    return flaw if len(everybody) == 1 else _first(_of_all_processes(flaw))


def _flaw_of_state(checkpoint: Path) -> str:
    if not checkpoint.is_dir():
        return "there is no such folder"
    if (checkpoint / _UNFINISHED).exists():
        return "its emergency save did not finish"
    path = checkpoint / STATE
    if not path.exists():
        return f"it has no {STATE}, which is written last"
    folder = next((each.name for each in checkpoint.iterdir() if each.suffix in _FILES and each.is_dir()), "")
    if folder:
        return f"its {folder} is no file"
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return f"its {STATE} is cut off"
    state = trainer_state(checkpoint)
    if type(state.get("global_step")) is not int or not isinstance(state.get("stateful_callbacks", {}), dict):
        return f"its {STATE} holds no trainer's state"
    return _missing_rank(checkpoint)


def _flaw_of_step(checkpoint: Path, written: manifest.Manifest | None) -> str:
    """Return whose state it is, where a folder holds that of another step than its manifest and its name say."""
    if written is None:
        return ""
    named = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    steps = {written.step, trainer_state(checkpoint)["global_step"], *([int(named[1])] if named else [])}
    return f"it holds files of step {min(steps)} and of step {max(steps)}" if len(steps) > 1 else ""


def _missing_rank(checkpoint: Path) -> str:
    """Return which rank's random state is missing, as far as files tell: where all ranks of a run write to one folder.

    One process has a name of its own for its file, so a numbered one was not alone. That the last of several is
    missing shows nowhere but in a manifest.
    """
    if not several_processes() or os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE"):
        return ""
    found = [re.fullmatch(r"rng_state_(\d+)\.pth", each.name) for each in checkpoint.glob("rng_state_*.pth")]
    ranks = {int(match[1]) for match in found if match}
    missing = set(range(max(2, *ranks) if ranks else 0)) - ranks
    return f"it has no rng_state_{min(missing)}.pth, so rank {min(missing)} was stopped in the save" if missing else ""


# ---------------------------------------------------------------- several processes


def _of_all_processes(value: Any) -> list[Any]:
    """Return what each process of the run says, so that all decide the same."""
    if not several_processes():
        return [value]
    from accelerate.utils import gather_object

    return list(gather_object([value]))


def _process() -> int:
    from accelerate import PartialState

    return int(PartialState().process_index) if several_processes() else 0


def _first(texts: Iterable[str]) -> str:
    return next(filter(None, texts), "")
