"""docs/differences.md, line by line: what differs in training, saving and resuming."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from test_differences import built
from torch.utils.data import Subset
from toys import arguments, data, inner, llama, needs_of, same_weights, skip_unless_installed, train, weights
from transformers import Trainer
from transformers.optimization import Adafactor, AdafactorSchedule

import anyoptim

pytestmark = pytest.mark.trainer


def test_the_grokking_signal(tmp_path: Path) -> None:
    """Theirs is computed from losses that nothing ever writes."""
    held = []
    for context in (contextlib.nullcontext, anyoptim.enable):
        with context():
            fields = {**needs_of("grokadamw"), "eval_strategy": "steps", "eval_steps": 2, "max_steps": 4}
            args = arguments(tmp_path, optim="grokadamw", **fields)
            trainer = train(llama(), args, eval_dataset=Subset(data(), range(8)))
            held.append([group.get("eval_loss") for group in inner(trainer.optimizer).param_groups])
    assert held[0] == [None, None]
    assert None not in held[1]


def resumes_exactly(name: str, folder: Path, *, enabled: bool) -> bool:
    """Whether a run stopped at its third step ends with the weights of one that was not stopped."""
    fields = {**needs_of(name), "optim": name, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    straight, resumed = llama(), llama(seed=1)
    with anyoptim.enable() if enabled else contextlib.nullcontext():
        train(straight, arguments(folder, **fields))
        trainer = Trainer(resumed, arguments(folder, **fields), train_dataset=data())
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    return same_weights(weights(resumed), weights(straight))


def test_resuming_galore(tmp_path: Path) -> None:
    with pytest.raises(pickle.UnpicklingError, match="projector"):
        resumes_exactly("galore_adamw", tmp_path / "theirs", enabled=False)
    assert resumes_exactly("galore_adamw", tmp_path / "ours", enabled=True)


def test_resuming_apollo(tmp_path: Path) -> None:
    with pytest.raises(pickle.UnpicklingError, match="projector"):
        resumes_exactly("apollo_adamw", tmp_path / "theirs", enabled=False)
    assert resumes_exactly("apollo_adamw", tmp_path / "ours", enabled=True)


def test_resuming_grokadamw(tmp_path: Path) -> None:
    """Theirs goes on from no state."""
    assert not resumes_exactly("grokadamw", tmp_path / "theirs", enabled=False)
    assert resumes_exactly("grokadamw", tmp_path / "ours", enabled=True)


def schedule_free_run(folder: Path, *, enabled: bool, **fields: Any) -> Trainer:
    with anyoptim.enable() if enabled else contextlib.nullcontext():
        saving = {"save_strategy": "steps", "save_steps": 4}
        chosen = {**needs_of("schedule_free_adamw"), "max_steps": 6, **saving, **fields}
        args = arguments(folder, optim="schedule_free_adamw", **chosen)
        return train(llama(), args, eval_dataset=Subset(data(), range(8)))


def saved_is_the_average(folder: Path, *, enabled: bool) -> bool:
    """Compare a checkpoint with the weights at which an evaluation at that step looks."""
    schedule_free_run(folder, enabled=enabled)
    evaluated = schedule_free_run(folder / "evaluated", enabled=enabled, eval_strategy="steps", eval_steps=4)
    return same_weights(
        load_file(folder / "checkpoint-4" / "model.safetensors"),
        load_file(Path(evaluated.args.output_dir, "checkpoint-4", "model.safetensors")),
    )


def test_saved_weights_of_schedule_free(tmp_path: Path) -> None:
    assert not saved_is_the_average(tmp_path / "theirs", enabled=False)
    assert saved_is_the_average(tmp_path / "ours", enabled=True)


def test_the_best_model_of_schedule_free(tmp_path: Path) -> None:
    """Theirs is averaged once more by the next evaluation, with state of the last step."""
    kept = []
    for enabled in (False, True):
        best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 4, "max_steps": 6}
        trainer = schedule_free_run(tmp_path / str(enabled), enabled=enabled, **best)
        before = weights(trainer.model)
        with anyoptim.enable() if enabled else contextlib.nullcontext():
            trainer.evaluate()
        kept.append(same_weights(weights(trainer.model), before))
    assert kept == [trainer_evaluates_at_the_end(), True]


def trainer_evaluates_at_the_end() -> bool:
    """Newer versions also evaluate at the last step, which hides it."""
    import transformers

    return tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 24)


def test_the_logged_rate_of_schedule_free(tmp_path: Path) -> None:
    logged = []
    for enabled in (False, True):
        trainer = schedule_free_run(tmp_path, enabled=enabled, warmup_steps=4)
        logged.append([row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row])
    rate = trainer.args.learning_rate
    assert logged[0] == [rate] * 6
    assert logged[1] == pytest.approx([rate * min(1, step / 4) for step in range(1, 7)])


@contextlib.contextmanager
def their_layerwise_scheduler() -> Iterator[None]:
    """Older transformers cannot even begin: their scheduler does not fit torch 2.13."""
    try:
        yield
    except ValueError as error:
        if "longer than argument" not in str(error):
            raise


LAYERWISE = {"optim": "apollo_adamw_layerwise", "optim_target_modules": "all-linear", "optim_args": "rank=8"}


def test_the_schedule_of_a_layerwise_optimizer(tmp_path: Path) -> None:
    """Theirs trains at a constant rate, whatever the schedule."""
    same = []
    for enabled in (False, True):
        runs = []
        for schedule in ("constant", "linear"):
            fields = {**LAYERWISE, "lr_scheduler_type": schedule, "learning_rate": 1e-3, "max_grad_norm": 0.0}
            model = llama()
            with anyoptim.enable() if enabled else their_layerwise_scheduler():
                train(model, arguments(tmp_path, max_steps=6, **fields))
            runs.append(weights(model))
        same.append(same_weights(*runs))
    assert same == [True, False]


def test_resuming_a_layerwise_optimizer(tmp_path: Path) -> None:
    """Theirs has an empty optimizer.pt."""
    exact = []
    for enabled in (False, True):
        folder = tmp_path / str(enabled)
        fields = {**LAYERWISE, "max_steps": 6, "save_strategy": "steps", "save_steps": 3, "max_grad_norm": 0.0}
        straight, resumed = llama(), llama(seed=1)
        with anyoptim.enable() if enabled else their_layerwise_scheduler():
            train(straight, arguments(folder, **fields))
            trainer = Trainer(resumed, arguments(folder, **fields), train_dataset=data())
            trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
        exact.append(same_weights(weights(resumed), weights(straight)))
    assert exact == [False, True]


def test_accumulation_under_a_layerwise_optimizer(tmp_path: Path) -> None:
    fields = {**LAYERWISE, "gradient_accumulation_steps": 2, "max_grad_norm": 0.0}
    with pytest.raises(ValueError, match="does not support gradient accumulation"):
        built(tmp_path, enabled=False, **fields)
    built(tmp_path, enabled=True, **fields)


def test_resuming_from_another_optimizer(tmp_path: Path) -> None:
    saving = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    for enabled, error in ((False, KeyError), (True, anyoptim.CheckpointError)):
        with anyoptim.enable() if enabled else contextlib.nullcontext():
            train(llama(), arguments(tmp_path / str(enabled), optim="sgd", **saving))
            args = arguments(tmp_path / str(enabled), optim="adamw_torch", **saving)
            trainer = Trainer(llama(), args, train_dataset=data())
            with pytest.raises(error):
                trainer.train(resume_from_checkpoint=str(tmp_path / str(enabled) / "checkpoint-1"))


def test_resuming_after_a_save_that_was_cut_off(tmp_path: Path) -> None:
    saving = {"optim": "adamw_torch", "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    train(llama(), arguments(tmp_path, **saving))
    (tmp_path / "checkpoint-2" / "trainer_state.json").unlink()
    with pytest.raises(FileNotFoundError):
        Trainer(llama(), arguments(tmp_path, **saving), train_dataset=data()).train(resume_from_checkpoint=True)
    with anyoptim.enable():
        trainer = Trainer(llama(), arguments(tmp_path, **saving), train_dataset=data())
        trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 2


def test_resuming_from_a_changed_file(tmp_path: Path) -> None:
    saving = {"optim": "adamw_torch", "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    with anyoptim.enable():
        train(llama(), arguments(tmp_path, **saving))
    changed = tmp_path / "checkpoint-2" / "model.safetensors"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    fields = {**saving, "max_steps": 3, "save_strategy": "no"}
    steps = []
    for enabled in (False, True):
        with anyoptim.enable() if enabled else contextlib.nullcontext():
            trainer = Trainer(llama(), arguments(tmp_path, **fields), train_dataset=data())
            said = pytest.warns(UserWarning, match="its model.safetensors is not what was written")
            with said if enabled else contextlib.nullcontext():
                trainer.train(resume_from_checkpoint=True)
            steps.append(trainer.state.global_step)
    assert steps == [3, 3]


def test_resuming_a_finished_run(tmp_path: Path) -> None:
    fields = {"optim": "adamw_torch", "max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    train(llama(), arguments(tmp_path, **fields))
    fields["save_strategy"] = "no"
    steps = []
    for enabled in (False, True):
        with anyoptim.enable() if enabled else contextlib.nullcontext():
            trainer = Trainer(llama(), arguments(tmp_path, **fields), train_dataset=data())
            said = pytest.warns(UserWarning, match="Nothing is trained")
            with said if enabled else contextlib.nullcontext():
                trainer.train(resume_from_checkpoint=True)
            steps.append(trainer.state.global_step)
    assert steps == [3, 2]


def test_resuming_with_another_rate(tmp_path: Path) -> None:
    fields = {"optim": "adamw_torch", "max_steps": 3, "save_steps": 2, "lr_scheduler_type": "constant"}
    train(llama(), arguments(tmp_path, save_strategy="steps", learning_rate=1e-3, **fields))
    rates = []
    for enabled in (False, True):
        with anyoptim.enable() if enabled else contextlib.nullcontext():
            args = arguments(tmp_path, save_strategy="no", learning_rate=5e-4, **fields)
            trainer = Trainer(llama(), args, train_dataset=data())
            said = pytest.warns(UserWarning, match="has no effect: .* begin a new run with the checkpoint's weights")
            with said if enabled else contextlib.nullcontext():
                trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
            rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == [1e-3, 1e-3]


@pytest.mark.parametrize("more", ["", ",scale_parameter=true,warmup_init=true", ",fused_backward=true"])
def test_the_recipe_of_transformers_guide_for_adafactor(more: str, tmp_path: Path) -> None:
    """There, a Trainer is given the optimizer and its schedule, which reads the step size."""
    options = {name: True for name in ("scale_parameter", "warmup_init") if name in more}
    theirs, ours = llama(), llama()
    optimizer = Adafactor(theirs.parameters(), lr=None, relative_step=True, **{"scale_parameter": False, **options})
    given = (optimizer, AdafactorSchedule(optimizer))
    train(theirs, arguments(tmp_path, max_steps=5, max_grad_norm=0.0), optimizers=given)
    with anyoptim.enable():
        fields = {"optim": "adafactor", "optim_args": f"relative_step=true,lr=none{more}"}
        train(ours, arguments(tmp_path, max_steps=5, max_grad_norm=0.0, **fields))
    assert same_weights(weights(theirs), weights(ours))


@pytest.mark.parametrize(
    ("name", "optim_args"),
    [
        ("timm/adafactor", "lr=none"),
        ("timm/cadafactor", "lr=none"),
        ("pytorch_optimizer/adafactor", "relative_step=true,lr=none"),
        ("galore_torch/galore_adafactor", "relative_step=true,lr=none,rank=8"),
        ("muon+adafactor", "fallback_relative_step=true,fallback_lr=none"),
        ("pytorch_optimizer/sara", "lr=none"),
    ],
)
def test_what_steps_without_a_rate_does_so_in_the_trainer(name: str, optim_args: str, tmp_path: Path) -> None:
    skip_unless_installed(name)
    model = llama()
    before = weights(model)
    fields = {"optim": name, "optim_args": optim_args, "optim_target_modules": needs_of(name)["optim_target_modules"]}
    with anyoptim.enable():
        train(model, arguments(tmp_path, max_steps=2, **fields))
    assert not same_weights(before, weights(model))
