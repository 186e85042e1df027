"""docs/differences.md, line by line: what transformers does and what anyoptim does."""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Subset
from toys import SIZES, arguments, data, inner, llama, needs_of, same_weights, skip_unless_installed, train, weights
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    HfArgumentParser,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Trainer,
    TrainingArguments,
)
from transformers.optimization import Adafactor, AdafactorSchedule

import anyoptim

pytestmark = pytest.mark.trainer

LOW_RANK = {"optim": "apollo_adamw", "optim_target_modules": ["attn", "mlp"]}


def built(tmp_path: Path, *, enabled: bool, **fields: Any) -> torch.optim.Optimizer:
    with anyoptim.enable() if enabled else contextlib.nullcontext():
        trainer = Trainer(llama(), arguments(tmp_path, **fields), train_dataset=data())
        return inner(trainer.create_optimizer())


def both(tmp_path: Path, **fields: Any) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    return built(tmp_path, enabled=False, **fields), built(tmp_path, enabled=True, **fields)


def values(optimizer: torch.optim.Optimizer, key: str) -> list[Any]:
    return [group.get(key) for group in optimizer.param_groups]


def test_weight_decay_of_low_rank_groups(tmp_path: Path) -> None:
    theirs, ours = both(tmp_path, weight_decay=0.1, **LOW_RANK)
    assert values(theirs, "weight_decay") == [0.0, 0.0]
    assert values(ours, "weight_decay") == [0.1, 0.0, 0.1]


def test_betas_of_the_other_groups_beside_low_rank_ones(tmp_path: Path) -> None:
    theirs, ours = both(tmp_path, adam_beta1=0.8, adam_beta2=0.95, **LOW_RANK)
    assert values(theirs, "betas") == [(0.9, 0.999), (0.8, 0.95)]
    assert values(ours, "betas") == [(0.8, 0.95)] * 3


def test_settings_of_galore(tmp_path: Path) -> None:
    changed = {"weight_decay": 0.1, "adam_beta1": 0.8, "adam_epsilon": 3e-7}
    theirs, ours = both(tmp_path, **{**LOW_RANK, "optim": "galore_adamw"}, **changed)
    assert values(theirs, "weight_decay") == [0.0, 0.0]
    assert values(ours, "weight_decay") == [0.1, 0.0, 0.1]
    for key, ignored, applied in (("betas", (0.9, 0.999), (0.8, 0.999)), ("eps", 1e-6, 3e-7)):
        assert set(values(theirs, key)) == {ignored}
        assert set(values(ours, key)) == {applied}


def test_frozen_parameters_in_low_rank_groups(tmp_path: Path) -> None:
    counts = []
    for enabled in (False, True):
        model = llama()
        model.model.embed_tokens.requires_grad_(False)
        with anyoptim.enable() if enabled else contextlib.nullcontext():
            optimizer = Trainer(model, arguments(tmp_path, **LOW_RANK), train_dataset=data()).create_optimizer()
        counts.append(sum(len(group["params"]) for group in optimizer.param_groups))
    total = len(list(llama().parameters()))
    assert counts == [total, total - 1]


def test_default_rank_of_apollo(tmp_path: Path) -> None:
    theirs, ours = both(tmp_path, **LOW_RANK)
    assert theirs.param_groups[-1]["rank"] == 128
    assert ours.param_groups[-1]["rank"] == 256


@pytest.mark.parametrize("name", ["lomo", "grokadamw"])
def test_weight_decay_dropped_or_betas_ignored(name: str, tmp_path: Path) -> None:
    fields = {**needs_of(name), "optim": name, "weight_decay": 0.1, "adam_beta1": 0.8}
    theirs, ours = both(tmp_path, **fields)
    if name == "lomo":
        assert theirs.weight_decay == 0.0
        assert set(values(ours, "weight_decay")) == {0.1, 0.0}
    else:
        assert set(values(theirs, "betas")) == {(0.9, 0.999)}
        assert set(values(ours, "betas")) == {(0.8, 0.999)}


@pytest.mark.parametrize(("name", "own"), [("adagrad", 1e-10), ("rmsprop", 1e-8)])
def test_a_changed_adam_epsilon_beside_adam(name: str, own: float, tmp_path: Path) -> None:
    theirs, ours = both(tmp_path, optim=name, adam_epsilon=3e-7)
    assert set(values(theirs, "eps")) == {own}
    assert set(values(ours, "eps")) == {3e-7}


@pytest.mark.parametrize("key", ["kahan_sum", "decouple_lr"])
def test_false_means_false(key: str, tmp_path: Path) -> None:
    theirs, ours = both(tmp_path, optim="stable_adamw", optim_args=f"{key}=False")
    assert set(values(theirs, key)) == {True}
    assert set(values(ours, key)) == {False}


@pytest.mark.parametrize(
    ("name", "text", "key", "ignored", "applied"),
    [
        ("adamw_torch", "amsgrad=true", "amsgrad", False, True),
        ("adamw_torch", "eps=1e-6", "eps", 1e-8, 1e-6),
        ("adafactor", "clip_threshold=0.5", "clip_threshold", 1.0, 0.5),
        ("adafactor", "scale_parameter=true", "scale_parameter", False, True),
        ("schedule_free_sgd", "momentum=0.8", "momentum", 0.9, 0.8),
        ("schedule_free_adamw", "foreach=false", "foreach", True, False),
        ("grokadamw", "eps=1e-6", "eps", 1e-8, 1e-6),
        ("lomo", "clip_grad_value=0.5", "clip_grad_value", None, 0.5),
    ],
)
def test_ignored_optim_args(name: str, text: str, key: str, ignored: Any, applied: Any, tmp_path: Path) -> None:
    theirs, ours = both(tmp_path, optim=name, optim_args=text)
    assert set(values(theirs, key)) == {ignored}
    assert set(values(ours, key)) == {applied}


@pytest.mark.parametrize("name", ["adamw_torch", "adafactor", "sgd", "stable_adamw", "schedule_free_adamw"])
def test_unknown_optim_args(name: str, tmp_path: Path) -> None:
    built(tmp_path, enabled=False, optim=name, optim_args="no_such_key=1")
    with pytest.raises(anyoptim.OptimArgsError, match="no_such_key"):
        built(tmp_path, enabled=True, optim=name, optim_args="no_such_key=1")


def test_weight_decay_in_optim_args(tmp_path: Path) -> None:
    theirs, ours = both(tmp_path, optim="sgd", optim_args="weight_decay=0.1")
    assert values(theirs, "weight_decay") == [0.0, 0.0]
    assert values(ours, "weight_decay") == [0.1, 0.0]


@pytest.mark.parametrize(
    "text", ["betas=(0.9,0.95)", "eps=1e-6,", '{"eps": 1e-6}', "  "], ids=["tuple", "trailing comma", "json", "blank"]
)
def test_forms_of_optim_args_that_break_theirs(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unpack"):
        built(tmp_path, enabled=False, optim="adamw_torch", optim_args=text)
    built(tmp_path, enabled=True, optim="adamw_torch", optim_args=text)


def test_repeated_optim_args(tmp_path: Path) -> None:
    text = "lamb=1,lamb=3"
    theirs = built(tmp_path, enabled=False, optim="grokadamw", optim_args=text)
    assert set(values(theirs, "lamb")) == {3.0}
    with pytest.raises(anyoptim.OptimArgsError, match="'lamb' twice"):
        built(tmp_path, enabled=True, optim="grokadamw", optim_args=text)


@pytest.mark.parametrize(
    ("text", "message"), [("rank=0", "rank must be >= 1"), ("scale_type=tensr", "Did you mean 'tensor'")]
)
def test_apollo_arguments_out_of_range(text: str, message: str, tmp_path: Path) -> None:
    built(tmp_path, enabled=False, optim_args=text, **LOW_RANK)
    with pytest.raises(anyoptim.OptimArgsError, match=message):
        built(tmp_path, enabled=True, optim_args=text, **LOW_RANK)


def test_a_warmup_ratio_of_schedule_free(tmp_path: Path) -> None:
    import transformers

    new = int(transformers.__version__.partition(".")[0]) >= 5
    ratio = {"warmup_steps" if new else "warmup_ratio": 0.1}
    theirs, ours = both(tmp_path, optim="schedule_free_adamw", **ratio)
    assert set(values(theirs, "warmup_steps")) == {0.1 if new else 0}
    assert set(values(ours, "warmup_steps")) == {2}


def test_one_target_pattern_of_several_matches_nothing(tmp_path: Path) -> None:
    fields = {"optim": "apollo_adamw", "optim_target_modules": ["attn", "q_prj"]}
    built(tmp_path, enabled=False, **fields)
    with pytest.raises(anyoptim.TargetModulesError, match=r"'q_prj' matches no module\. Did you mean 'q_proj'"):
        built(tmp_path, enabled=True, **fields)


def test_targets_that_are_no_nn_linear(tmp_path: Path) -> None:
    """GPT-2's Conv1D, an embedding that is named alone."""
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=64))
    for model, pattern in ((gpt2, "attn"), (llama(), "embed_tokens")):
        args = arguments(tmp_path, optim="apollo_adamw", optim_target_modules=[pattern], optim_args="rank=4")
        with pytest.raises(ValueError, match="No target modules"):
            Trainer(model, args, train_dataset=data()).create_optimizer()
        with anyoptim.enable():
            optimizer = inner(Trainer(model, args, train_dataset=data()).create_optimizer())
        assert any("rank" in group for group in optimizer.param_groups)


def test_experts_of_a_moe_model(tmp_path: Path) -> None:
    """transformers 5 stacks them in 3-d parameters; 4.57 keeps them in linear layers, where both agree."""
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2))
    experts = {id(each) for name, each in model.named_parameters() if ".experts." in name}
    stacked = any(each.dim() == 3 for each in model.parameters())
    args = arguments(tmp_path, optim="apollo_adamw", optim_target_modules=[r".*.mlp.*"], optim_args="rank=4")

    def projected() -> set[int]:
        optimizer = inner(Trainer(model, args, train_dataset=data()).create_optimizer())
        return {id(each) for group in optimizer.param_groups if "rank" in group for each in group["params"]}

    if stacked:
        with pytest.raises(ValueError, match="No target modules"):
            projected()
    else:
        assert projected() >= experts
    with anyoptim.enable():
        assert projected() >= experts


def test_adalomo_on_a_machine_without_cuda(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        with pytest.raises((AssertionError, RuntimeError)):
            built(tmp_path, enabled=False, optim="adalomo")
    assert type(built(tmp_path, enabled=True, optim="adalomo")).__module__ == "anyoptim.engines.adalomo"


def test_8_bit_galore_on_a_machine_without_cuda(tmp_path: Path) -> None:
    fields = {**needs_of("galore_adamw_8bit"), "optim": "galore_adamw_8bit", "max_steps": 1}
    if not torch.cuda.is_available():
        with pytest.raises((AssertionError, RuntimeError)):
            train(llama(), arguments(tmp_path, **fields))
    with anyoptim.enable():
        trainer = train(llama(), arguments(tmp_path, **fields))
    assert torch.uint8 in {each["exp_avg"].dtype for each in inner(trainer.optimizer).state.values()}


def test_the_layerwise_adafactor_of_galore(tmp_path: Path) -> None:
    fields = {**needs_of("galore_adafactor_layerwise"), "optim": "galore_adafactor_layerwise"}
    with pytest.raises(ValueError, match="relative_step"):
        built(tmp_path, enabled=False, **fields)
    built(tmp_path, enabled=True, **fields)


@pytest.mark.parametrize("name", ["apollo_adamw", "galore_adamw", "galore_adafactor", "grokadamw", "lomo"])
def test_the_class_behind_a_name(name: str, tmp_path: Path) -> None:
    """tests/test_engine_parity.py compares their steps; adalomo is in the test above."""
    theirs, ours = both(tmp_path, optim=name, **needs_of(name))
    asked = {**needs_of(name), "optim_args": "implementation=upstream"}
    assert type(built(tmp_path, enabled=True, optim=name, **asked)) is type(theirs)
    assert type(ours).__module__.startswith("anyoptim.engines")


def test_the_guides_spelling(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a valid"):
        built(tmp_path, enabled=False, optim="schedule_free_radamw")
    built(tmp_path, enabled=True, optim="schedule_free_radamw")


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


def test_the_model_card(tmp_path: Path) -> None:
    """Theirs prints the fields of TrainingArguments, whether they reached the optimizer or not."""
    cards = []
    for enabled in (False, True):
        folder = tmp_path / str(enabled)
        fields = {**needs_of("grokadamw"), "adam_beta1": 0.8, "optim_args": "lamb=1.5"}
        with anyoptim.enable() if enabled else contextlib.nullcontext():
            trainer = train(llama(), arguments(folder, optim="grokadamw", max_steps=1, **fields))
            trainer.create_model_card(model_name="tiny")
        beta = inner(trainer.optimizer).param_groups[0]["betas"][0]
        cards.append(((folder / "README.md").read_text(), beta))
    (theirs, their_beta), (ours, our_beta) = cards
    assert "betas=(0.8," in theirs and their_beta == 0.9
    assert "betas=[0.8, 0.999]" in ours and our_beta == 0.8


def test_optim_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def parse(name: str) -> Any:
        words = ["--output_dir", str(tmp_path), "--use_cpu", "--optim", name]
        return HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(words)[0].optim

    for name in ("soap", "muon+lion", "lookahead(sgd)", "torch.optim:NAdam"):
        with pytest.raises(SystemExit):
            parse(name)
        assert "invalid choice" in capsys.readouterr().err
        with anyoptim.enable():
            assert getattr(parse(name), "value", name) == name
    with anyoptim.enable():
        assert parse("adamw_torch").value == "adamw_torch"
        with pytest.raises(SystemExit):
            parse("apolo_adamw")
    error = capsys.readouterr().err
    assert "Did you mean 'apollo_adamw'" in error and "schedule_free" not in error
    with pytest.raises(SystemExit):
        parse("soap")  # put back


def test_every_difference_names_a_test_of_this_file() -> None:
    page = Path(__file__).parents[1] / "docs" / "differences.md"
    named = set(re.findall(r"`(test_\w+)`", page.read_text()))
    here = {name for name in globals() if name.startswith("test_")} - {
        "test_every_difference_names_a_test_of_this_file"
    }
    assert named == here


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
