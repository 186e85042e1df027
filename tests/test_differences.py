"""docs/differences.md, line by line: what differs in what is built and said."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import SIZES, arguments, data, inner, llama, needs_of, train
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    HfArgumentParser,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Trainer,
    TrainingArguments,
)

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


def test_every_difference_names_a_test_of_its_own() -> None:
    root = Path(__file__).parents[1]
    named = re.findall(r"`(test_\w+)`", (root / "docs" / "differences.md").read_text())
    files = (root / "tests").glob("test_differences*.py")
    here = {name for each in files for name in re.findall(r"^def (test_\w+)", each.read_text(), re.MULTILINE)}
    assert set(named) == here - {"test_every_difference_names_a_test_of_its_own"}
