"""What a Trainer saves is the model, and what it resumes is whole and the same optimizer's.

For the time of ``Trainer.train``:

- whatever saves (``_save_checkpoint``, ``save_model``, the callbacks of ``on_save``, also a subclass's own) finds the
  average of a schedule-free optimizer in the model, and training goes on from its training weights;
- every checkpoint gets a manifest, and ``resume_from_checkpoint`` takes a whole one only;
- a finished run that is resumed trains nothing.

Afterwards, however it ended, the model holds the average.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch

from anyoptim.building.records import built, record_of, refuse_other
from anyoptim.building.training_weights import average_in_place, training_weights_of
from anyoptim.building.wide_weights import wide_in_place
from anyoptim.engines.closure import WithClosure
from anyoptim.engines.distributed import several_processes
from anyoptim.engines.fused_backward import FusedBackward
from anyoptim.engines.owned import replicas_consolidated
from anyoptim.errors import CheckpointError
from anyoptim.integrations.deepspeed import refuse_deepspeeds_own_optimizer
from anyoptim.integrations.manifest import Manifests
from anyoptim.integrations.patching import replace
from anyoptim.integrations.reports import OptimizerRecord
from anyoptim.integrations.unread import OPTIMIZER, in_our_words
from anyoptim.integrations.whole import STATE, recorded, trainer_state, whole_checkpoint


def wrap_checkpoints(undo: ExitStack) -> None:
    """Wrap training and resuming of ``Trainer``."""
    from transformers import Trainer

    train = Trainer.train

    @functools.wraps(train)
    def train_and_save_the_model(self: Any, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        refuse_deepspeeds_own_optimizer(self)
        resume = whole_checkpoint(resume_from_checkpoint, self.args.output_dir)
        with ExitStack() as run:
            self.add_callback(OptimizerRecord)
            run.callback(self.remove_callback, OptimizerRecord)
            run.callback(_leave_the_average, self)
            _save_the_average(self, run)
            if isinstance(resume, (str, os.PathLike)):
                _train_no_finished_run(self, run, Path(resume))
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
        # torch's distributed checkpoints take a step without gradients, and without a closure, before they load
        still = facade.standing_still() if isinstance(facade, WithClosure) else nullcontext()
        with in_our_words(Path(checkpoint), OPTIMIZER), still:
            load(self, checkpoint)

    replace(undo, Trainer, "_load_optimizer_and_scheduler", load_checked)
    for name, what in {
        "_load_from_checkpoint": "",
        "_load_scaler": "scaler",
        "_load_rng_state": "random state",
    }.items():
        _wrap_reading(undo, Trainer, name, what)
    _wrap_save_model(undo)
    _wrap_loading_under_fsdp(undo)
    _wrap_emergency_checkpoint(undo)


def _wrap_reading(undo: ExitStack, cls: type, name: str, what: str) -> None:
    """Let a method that reads of a checkpoint say in our words what it cannot read."""
    read: Callable[..., Any] = getattr(cls, name)

    @functools.wraps(read)
    def read_in_our_words(self: Any, checkpoint: Any, *args: Any, **kwargs: Any) -> Any:
        with in_our_words(Path(checkpoint), what) if checkpoint is not None else nullcontext():
            return read(self, checkpoint, *args, **kwargs)

    replace(undo, cls, name, read_in_our_words)


def _wrap_save_model(undo: ExitStack) -> None:
    """Let what a user saves be in fp32 where ``save_fp32`` says so; checkpoints hold the weights that training has."""
    from transformers import Trainer

    save_model = Trainer.save_model

    @functools.wraps(save_model)
    def save_model_in_fp32(self: Any, output_dir: Any = None, _internal_call: bool = False) -> Any:
        record = None if _internal_call else record_of(self.optimizer)
        wide = record is not None and record.hyperparameters.get("save_fp32") is True
        with wide_in_place(self.model, built(self.optimizer)) if wide else nullcontext():
            return save_model(self, output_dir, _internal_call)

    replace(undo, Trainer, "save_model", save_model_in_fp32)


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
    manifests = Manifests()
    run.callback(lambda: manifests.finish(alone=not several_processes()))

    @functools.wraps(save_checkpoint)
    def save_checkpoint_as_new(model: Any, trial: Any = None, *args: Any, **kwargs: Any) -> Any:
        with replicas_consolidated(built(trainer.optimizer)):
            return save_on_this_process(model, trial, *args, **kwargs)

    def save_on_this_process(model: Any, trial: Any, *args: Any, **kwargs: Any) -> Any:
        if not trainer.args.should_save:
            return save_checkpoint(model, trial, *args, **kwargs)
        folder = Path(trainer._get_output_dir(trial), f"checkpoint-{trainer.state.global_step}")
        # a save over an older checkpoint of the same step is no whole one until it is done
        (folder / STATE).unlink(missing_ok=True)
        manifests.begin(folder)
        saved = save_checkpoint(model, trial, *args, **kwargs)
        manifests.complete(folder, trainer.state.global_step)
        return saved

    on_save = saving(trainer.callback_handler.on_save)

    @functools.wraps(on_save)
    def on_save_of_all(*args: Any, **kwargs: Any) -> Any:
        control = on_save(*args, **kwargs)  # callbacks may change what is saved
        trainer.accelerator.wait_for_everyone()
        manifests.write()
        return control

    replace(run, trainer, "_save_checkpoint", save_checkpoint_as_new)
    replace(run, trainer, "save_model", saving(trainer.save_model))
    replace(run, trainer.callback_handler, "on_save", on_save_of_all)
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


def _train_no_finished_run(trainer: Any, run: ExitStack, checkpoint: Path) -> None:
    """Keep the Trainer from the one step that it makes before it sees that all steps are done."""
    values = trainer.set_initial_training_values
    done: int = trainer_state(checkpoint).get("global_step", 0)

    @functools.wraps(values)
    def no_more_epochs(*args: Any, **kwargs: Any) -> Any:
        epochs, steps_of_an_epoch, *others = values(*args, **kwargs)
        max_steps = others[-1]
        if done >= max_steps:
            warnings.warn(
                f"Nothing is trained: {checkpoint} has all of {max_steps} steps. Raise max_steps or num_train_epochs"
                " to go on.",
                stacklevel=2,
            )
            epochs = done // steps_of_an_epoch
        return (epochs, steps_of_an_epoch, *others)

    replace(run, trainer, "set_initial_training_values", no_more_epochs)


def _check_files(checkpoint: Path, trainer: Any) -> None:
    """Refuse state of another optimizer, and say when there is none."""
    wrote = recorded(checkpoint)
    if "name" in wrote:  # a stranger's has none
        refuse_other(wrote, trainer.optimizer, f"The checkpoint {checkpoint}")
    if trainer.is_deepspeed_enabled:  # which has files of its own
        return
    has_state = any(each.name.startswith("optimizer") for each in checkpoint.iterdir())
    if has_state and not (checkpoint / "scheduler.pt").is_file():
        raise CheckpointError(
            f"The checkpoint {checkpoint} has no scheduler.pt, without which transformers restores no optimizer"
            " state either. Resume from another checkpoint."
        )
    if not has_state:
        warnings.warn(
            f"The checkpoint {checkpoint} holds no optimizer state (save_only_model?), so the optimizer starts afresh.",
            stacklevel=5,
        )
