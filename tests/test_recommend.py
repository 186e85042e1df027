"""What fits is found by the plan, and what is to be pasted builds it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import printed
from transformers import TrainingArguments

import anyoptim
from anyoptim.cli.recommend import recommend_command
from anyoptim.integrations.models import load_config, make_model, meta_model, with_adapters
from anyoptim.planning.recommending import ROOM, SHOWN, Recommended, ranked, recommend
from anyoptim.planning.suggestions import suited_arguments, usual_rates
from anyoptim.text import format_bytes, read_bytes

NAMED_BARE = [
    name
    for name in anyoptim.list_optimizers(installed=True)
    if "/" not in name and not anyoptim.optimizer_info(name).is_wrapper
]
NAMED = [name for name in anyoptim.list_optimizers(installed=True) if "/" not in name]


MEASURED = ranked("pretrain")


def names_of(found: Recommended) -> list[str]:
    return [each.name for each in found.best]


def test_what_fits_comes_by_its_evidence_with_settings_where_they_help() -> None:
    model = meta_model("llama-60m", "bf16")
    weights = sum(each.nbytes for each in model.parameters())
    names = ["adamw_torch", "sgd", "lomo", "adam", "grokadamw", "muon"]
    found = recommend(model, int(3.5 * weights), names, task="pretrain")
    assert all((each.footprint.total or 0) <= 3.5 * weights * (1 - ROOM) for each in found.best)
    assert names_of(found) == sorted(names_of(found), key=MEASURED.index)
    assert {"muon", "adamw_torch", "lomo", "sgd"} <= set(names_of(found))
    assert {each.name for each in found.left_out} <= {"grokadamw"} and found.unmeasured == 1
    fused = {each.name for each in found.best if "fused_backward" in str(each.arguments.get("optim_args"))}
    assert {"adamw_torch", "muon"} <= fused and "lomo" not in fused


def test_examples_and_toys_never_lead() -> None:
    model = meta_model("llama-60m", "bf16")
    for task in ("pretrain", "finetune", "lora"):
        found = recommend(model, 2**34, NAMED_BARE, task=task)
        assert len(found.best) == SHOWN
        assert not {"sgd", "example_sgd", "example_sign", "lomo"} & set(names_of(found))
        assert all(each.evidence and each.why for each in found.best)
    every = names_of(recommend(model, 2**34, NAMED_BARE, task="pretrain", every=True))
    place = every.index("example_sign")
    assert place > max(every.index(name) for name in MEASURED if name in every)


@pytest.mark.parametrize("name", NAMED)
def test_the_line_to_paste_is_valid_and_plans_what_it_says(name: str) -> None:
    model = make_model(load_config("tiny-llama"), device="meta")
    wanted = [] if anyoptim.optimizer_info(name).is_wrapper else [name]
    for each in recommend(model, 2**40, wanted, every=True).best:
        with anyoptim.enable():
            args: Any = eval(
                f"TrainingArguments(output_dir='out', use_cpu=True, {each.line})",
                {"TrainingArguments": TrainingArguments},
            )
            planned = anyoptim.plan(name, model, args)
        assert planned.footprint().total == each.footprint.total
        unsuited = ("far ", "lr_scheduler_type", "max_grad_norm")
        assert not [one for one in planned.advice if any(word in one for word in unsuited)]


@pytest.mark.parametrize(
    "named",
    [
        *("set_seed", "Trainer", "AutoModel", "AutoModelForCausalLM", "LlamaConfig", "PreTrainedModel", "BertModel"),
        *("logging", "NoSuch", "__doc__", "", 7, ["LlamaModel"]),
    ],
)
def test_a_configuration_calls_no_other_thing_than_its_model(named: object, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    sizes = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config.write_text(json.dumps({"model_type": "llama", "num_attention_heads": 2, "architectures": [named], **sizes}))
    with pytest.raises(anyoptim.OptimError, match="is no model of transformers"):
        meta_model(str(config), "bf16")


def test_a_suggested_rate_is_a_usual_one() -> None:
    for name in NAMED:
        spec = anyoptim.optimizer_info(name)
        low, middle, high = usual_rates(spec)
        assert low <= middle <= high
        assert suited_arguments(name, learning_rate=high)["learning_rate"] == high


def test_ranks_make_more_fit() -> None:
    model = meta_model("llama-60m", "bf16")
    weights = sum(each.nbytes for each in model.parameters())
    names = ["adamw_torch", "apollo_adamw", "adafactor"]
    assert not recommend(model, weights // 2, names).best
    assert set(names_of(recommend(model, weights, names, ranks=8))) == set(names)


def test_adapters_alone_are_trained() -> None:
    model = with_adapters(meta_model("llama-60m", "bf16"))
    (adamw,) = recommend(model, 2**34, ["adamw_torch"], task="lora").best
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert adamw.footprint.state is not None and 8 * trained <= adamw.footprint.state < 9 * trained
    assert adamw.footprint.gradients < adamw.footprint.weights / 4


@pytest.mark.slow
def test_the_command_looks_at_every_name() -> None:
    answer = json.loads(printed("recommend", "--model", "tiny-llama", "--memory", "7MiB", "--json", "--all"))
    assert {"lomo", "adalomo"} <= {each["name"] for each in answer["recommended"]}
    assert all(each["memory"]["total"] <= 7 * 2**20 for each in answer["recommended"])


def test_what_the_command_says() -> None:
    words = ("recommend", "--model", "llama-7b", "--memory", "24GiB", "--task", "pretrain")
    answer = json.loads(printed(*words, "--json"))
    assert answer["task"] == "pretrain" and 1 <= len(answer["recommended"]) <= SHOWN
    *first, last = answer["recommended"]
    losses = [each["evidence"][0]["loss"] for each in first]
    assert losses == sorted(losses)
    # where the best need the host's memory, one line does without
    assert all(each["memory"]["where"] == "host" for each in first) and last["memory"]["where"] == ""
    assert "moves between host and card" in first[0]["cost"]
    text = printed(*words)
    for each in answer["recommended"]:
        assert each["why"] in text and each["cost"] in text
        line = ", ".join(f"{key}={json.dumps(value)}" for key, value in each["training_arguments"].items())
        assert line in map(str.strip, text.splitlines())
    assert "24 GiB" in text and "██ weights" in text
    assert "in bf16, pretrain, within 24GiB" in text


@pytest.mark.parametrize("as_json", [False, True])
def test_nothing_fits(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(anyoptim.OptimError, match="take more ranks"):
        recommend_command("tiny-llama", "1MB", as_json=as_json)
    out = capsys.readouterr().out
    assert (json.loads(out)["recommended"] == []) if as_json else out == ""


@pytest.mark.parametrize(("in_terminal", "as_json"), [(True, False), (True, True), (False, False)])
def test_progress_is_for_a_person_who_waits(
    in_terminal: bool, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leader, follower = os.openpty()
    if in_terminal:
        monkeypatch.setattr(sys, "stderr", os.fdopen(follower, "w"))
    recommend_command("tiny-llama", "30MiB", as_json=as_json)
    os.set_blocking(leader, False)
    shown = os.read(leader, 100_000).decode() if in_terminal and not as_json else ""
    assert ("planning muon" in shown) == (in_terminal and not as_json)
    assert capsys.readouterr().err == ""
    with pytest.raises(BlockingIOError):  # nothing more
        os.read(leader, 1)


@pytest.mark.parametrize(
    ("text", "count"), [("24GiB", 24 * 2**30), ("24g", 24 * 2**30), ("80 GB", 80 * 10**9), ("1.5k", 1536), ("7 B", 7)]
)
def test_amounts_of_memory(text: str, count: int) -> None:
    assert read_bytes(text) == count


@pytest.mark.parametrize(("text", "mend"), [("24", "24GiB"), (" 80 ", "80GiB"), ("0.5", "0.5GiB"), ("0", "0GiB")])
def test_a_number_without_a_unit_is_no_amount(text: str, mend: str) -> None:
    with pytest.raises(anyoptim.OptimError, match=f"without a unit; write {mend}"):
        read_bytes(text)
    assert read_bytes(mend) == float(text) * 2**30


@pytest.mark.parametrize("text", ["", "GB", "24 apples", "-1G", "1..5G", "\N{ARABIC-INDIC DIGIT TWO}G"])
def test_no_amounts_of_memory(text: str) -> None:
    with pytest.raises(anyoptim.OptimError, match="is no amount of memory"):
        read_bytes(text)


@pytest.mark.parametrize("count", [0, 1023, 1024, 1010 * 2**20, 5 * 2**20, 3 * 2**40])
def test_written_and_read_again(count: int) -> None:
    assert "e+" not in format_bytes(count)
    assert read_bytes(format_bytes(count)) == pytest.approx(count, rel=0.01)
