"""What a Trainer saves is the model, and what it resumes is whole and the same optimizer's.

For the time of ``Trainer.train``:

- whatever saves (``_save_checkpoint``, ``save_model``, the callbacks of ``on_save``, also a subclass's own) finds the
  average of a schedule-free optimizer in the model, and training goes on from its training weights;
- ``resume_from_checkpoint`` takes a whole checkpoint only: ``trainer_state.json`` is written last.

Afterwards, however it ended, the model holds the average.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import re
import warnings
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException

from anyoptim.building.records import built, refuse_other
from anyoptim.building.training_weights import average_in_place, training_weights_of
from anyoptim.engines.closure import WithClosure
from anyoptim.engines.distributed import several_processes
from anyoptim.engines.fused_backward import FusedBackward
from anyoptim.errors import CheckpointError, OptimError
from anyoptim.integrations.deepspeed import refuse_deepspeeds_own_optimizer
from anyoptim.integrations.patching import replace
from anyoptim.integrations.reports import OptimizerRecord

_STATE = "trainer_state.json"
_UNFINISHED = "checkpoint-is-incomplete.txt"  # transformers' own sentinel of an emergency save


def wrap_checkpoints(undo: ExitStack) -> None:
    """Wrap training and resuming of ``Trainer``."""
    from transformers import Trainer

    train = Trainer.train

    @functools.wraps(train)
    def train_and_save_the_model(self: Any, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        refuse_deepspeeds_own_optimizer(self)
        resume = _whole_checkpoint(resume_from_checkpoint, self.args.output_dir)
        with ExitStack() as run:
            self.add_callback(OptimizerRecord)
            run.callback(self.remove_callback, OptimizerRecord)
            run.callback(_leave_the_average, self)
            _save_the_average(self, run)
            return train(self, resume, *args, **kwargs)

    replace(undo, Trainer, "train", train_and_save_the_model)

    load = Trainer._load_optimizer_and_scheduler

    @functools.wraps(load)
    def load_checked(self: Any, checkpoint: str | None) -> None:
        optimizer = built(self.optimizer)
        if checkpoint is None or optimizer is None:
            return load(self, checkpoint)
        _check_files(Path(checkpoint), self)
        two_sets = training_weights_of(optimizer)
        if two_sets is not None:
            two_sets.expect()
        facade = getattr(self.optimizer, "optimizer", self.optimizer)
        try:
            # torch's distributed checkpoints take a step without gradients, and without a closure, before they load
            with facade.standing_still() if isinstance(facade, WithClosure) else nullcontext():
                load(self, checkpoint)
        except (OptimError, torch.OutOfMemoryError):
            raise
        except CheckpointException as error:  # one error a rank
            first, *_ = (each for each, _ in error.failures.values())
            raise _unread(Path(checkpoint), first) from error
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise _unread(Path(checkpoint), error) from error

    replace(undo, Trainer, "_load_optimizer_and_scheduler", load_checked)
    _wrap_loading_under_fsdp(undo)
    _wrap_emergency_checkpoint(undo)


def _wrap_loading_under_fsdp(undo: ExitStack) -> None:
    """Let an optimizer without state be resumed from a full state dict, which torch's distributed checkpoint cannot."""
    from transformers import trainer

    load_fsdp_optimizer: Callable[..., Any] = vars(trainer)["load_fsdp_optimizer"]

    @functools.wraps(load_fsdp_optimizer)
    def load_fsdp_optimizer_or_nothing(
        plugin: Any, accelerator: Any, optimizer: Any, model: Any, checkpoint: str, *args: Any, **kwargs: Any
    ) -> Any:
        file = Path(checkpoint, "optimizer.bin")
        if built(optimizer) is not None and file.exists():
            saved = torch.load(file, weights_only=True, mmap=True)
            if not saved["state"]:
                for group, held in zip(optimizer.param_groups, saved["param_groups"], strict=True):
                    group.update({key: value for key, value in held.items() if key != "params"})
                return None
        return load_fsdp_optimizer(plugin, accelerator, optimizer, model, checkpoint, *args, **kwargs)

    replace(undo, trainer, "load_fsdp_optimizer", load_fsdp_optimizer_or_nothing)


def _wrap_emergency_checkpoint(undo: ExitStack) -> None:
    """Keep an emergency checkpoint from falling between the backward pass and the step of a fused optimizer."""
    try:
        from transformers.trainer_jit_checkpoint import JITCheckpointCallback
    except ImportError:  # transformers 4.57 has none
        return
    on_pre_optimizer_step: Callable[..., Any] = JITCheckpointCallback.on_pre_optimizer_step

    @functools.wraps(on_pre_optimizer_step)
    def on_pre_optimizer_step_of_two(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        optimizer = kwargs.get("optimizer")
        if isinstance(getattr(optimizer, "optimizer", optimizer), FusedBackward):
            return None  # on_step_end saves
        return on_pre_optimizer_step(self, args, state, control, **kwargs)

    replace(undo, JITCheckpointCallback, "on_pre_optimizer_step", on_pre_optimizer_step_of_two)


def _unread(checkpoint: Path, error: BaseException) -> CheckpointError:
    """Return what to raise for optimizer state that cannot be loaded; good state that does not fit is not damaged."""
    wrote = _recorded(checkpoint).get("name", "an optimizer that it does not name")
    reason = str(error).partition("\n")[0] or type(error).__name__
    # a state that holds objects of other classes is whole, though torch does not read it
    unreadable = isinstance(error, pickle.UnpicklingError) and "Unsupported global" not in str(error)
    damaged = unreadable or isinstance(error, (EOFError, OSError)) or "PytorchStreamReader" in str(error)
    return CheckpointError(
        f"The optimizer state in {checkpoint}, written by {wrote}, "
        + (
            f"is damaged: {reason}. Resume from another checkpoint."
            if damaged
            else f"does not fit: {reason}. Resume with the model and the settings that it was written with."
        )
    )


# ---------------------------------------------------------------- saving


def _save_the_average(trainer: Any, run: ExitStack) -> None:
    """Wrap what saves, on the trainer itself: a subclass may override any of it."""

    def saving(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def save(*args: Any, **kwargs: Any) -> Any:
            with average_in_place(built(trainer.optimizer)):
                return original(*args, **kwargs)

        return save

    save_checkpoint = saving(trainer._save_checkpoint)

    @functools.wraps(save_checkpoint)
    def save_checkpoint_as_new(model: Any, trial: Any = None, *args: Any, **kwargs: Any) -> Any:
        # a save over an older checkpoint of the same step is no whole one until it is done
        if trainer.args.should_save:
            folder = Path(trainer._get_output_dir(trial), f"checkpoint-{trainer.state.global_step}")
            (folder / _STATE).unlink(missing_ok=True)
        return save_checkpoint(model, trial, *args, **kwargs)

    replace(run, trainer, "_save_checkpoint", save_checkpoint_as_new)
    replace(run, trainer, "save_model", saving(trainer.save_model))
    replace(run, trainer.callback_handler, "on_save", saving(trainer.callback_handler.on_save))
    load_best_model = trainer._load_best_model

    @functools.wraps(load_best_model)
    def load_best_model_as_it_is(*args: Any, **kwargs: Any) -> Any:
        _leave_the_average(trainer)  # else a later eval() would change the loaded weights
        return load_best_model(*args, **kwargs)

    replace(run, trainer, "_load_best_model", load_best_model_as_it_is)


def _leave_the_average(trainer: Any) -> None:
    optimizer: Any = built(trainer.optimizer)
    if training_weights_of(optimizer) is not None:
        optimizer.eval()


# ---------------------------------------------------------------- resuming


def _whole_checkpoint(wanted: Any, output_dir: str) -> Any:
    """Return the checkpoint to resume from: a path that is whole, or for ``True`` the last one that is.

    The sentences begin with transformers' own words, by which scripts know them.
    """
    if isinstance(wanted, (str, os.PathLike)):
        flaw = _flaw(Path(wanted))
        if flaw:
            last = next((each for each in _checkpoints(Path(wanted).parent) if not _flaw(each)), None)
            mend = f" Resume from {last}, the last whole one." if last else ""
            raise CheckpointError(f"Can't find a valid checkpoint at {wanted}: {flaw}.{mend}")
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


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders in a folder, the last one first."""
    found = [(re.fullmatch(r"checkpoint-(\d+)", each.name), each) for each in folder.glob("checkpoint-*")]
    return [each for _, each in sorted(((int(match[1]), each) for match, each in found if match), reverse=True)]


def _flaw(checkpoint: Path) -> str:
    """Return why a checkpoint is not whole, or ""."""
    if not checkpoint.is_dir():
        return "there is no such folder"
    if (checkpoint / _UNFINISHED).exists():
        return "its emergency save did not finish"
    try:
        json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {_STATE}, which is written last"
    except ValueError:
        return f"its {_STATE} is cut off"
    return _missing_rank(checkpoint)


def _missing_rank(checkpoint: Path) -> str:
    """Return which rank's random state is missing, as far as files tell: where all ranks of a run write to one folder.

    One process has a name of its own for its file, so a numbered one was not alone. That the last of several is
    missing shows nowhere.
    """
    if not several_processes() or os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE"):
        return ""
    found = [re.fullmatch(r"rng_state_(\d+)\.pth", each.name) for each in checkpoint.glob("rng_state_*.pth")]
    ranks = {int(match[1]) for match in found if match}
    missing = set(range(max(2, *ranks) if ranks else 0)) - ranks
    return f"it has no rng_state_{min(missing)}.pth, so rank {min(missing)} was stopped in the save" if missing else ""


def _check_files(checkpoint: Path, trainer: Any) -> None:
    """Refuse state of another optimizer, and say when there is none."""
    wrote = _recorded(checkpoint)
    if "name" in wrote:  # a stranger's has none
        refuse_other(wrote, trainer.optimizer, f"The checkpoint {checkpoint}")
    if trainer.is_deepspeed_enabled:  # which has files of its own
        return
    has_state = any(each.name.startswith("optimizer") for each in checkpoint.iterdir())
    if has_state and not (checkpoint / "scheduler.pt").exists():
        raise CheckpointError(
            f"The checkpoint {checkpoint} has no scheduler.pt, without which transformers restores no optimizer"
            " state either. Resume from another checkpoint."
        )
    if not has_state:
        warnings.warn(
            f"The checkpoint {checkpoint} holds no optimizer state (save_only_model?), so the optimizer starts afresh.",
            stacklevel=5,
        )


def _recorded(checkpoint: Path) -> dict[str, Any]:
    """Return what the checkpoint's trainer state says of the optimizer that ran, if anything."""
    try:
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found: dict[str, Any] = state.get("stateful_callbacks", {}).get(OptimizerRecord.__name__, {}).get("attributes", {})
    return found
