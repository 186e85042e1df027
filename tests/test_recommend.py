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
from anyoptim.integrations.models import load_config, make_model, meta_model
from anyoptim.planning.recommending import recommend
from anyoptim.planning.suggestions import suited_arguments, usual_rates
from anyoptim.text import format_bytes, read_bytes

NAMED = [name for name in anyoptim.list_optimizers(installed=True) if "/" not in name]


def test_only_what_fits_sorted_with_fused_backward_where_it_helps() -> None:
    model = meta_model("llama-60m", "bf16")
    weights = sum(each.nbytes for each in model.parameters())
    found = recommend(model, int(3.5 * weights), ["adamw_torch", "sgd", "lomo", "adam", "grokadamw", "muon"])
    totals = [each.footprint.total for each in found]
    assert totals == sorted(totals)
    assert all(total is not None and total <= 3.5 * weights for total in totals)
    assert {each.name for each in found} == {"sgd", "lomo", "muon"} | {"adamw_torch", "adam"}
    fused = {each.name for each in found if "fused_backward" in str(each.arguments.get("optim_args"))}
    assert fused == {"adamw_torch", "adam", "muon"}


@pytest.mark.parametrize("name", NAMED)
def test_the_line_to_paste_is_valid_and_plans_what_it_says(name: str) -> None:
    model = make_model(load_config("tiny-llama"), device="meta")
    for each in recommend(model, 2**40, [] if anyoptim.optimizer_info(name).is_wrapper else [name]):
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
    assert not recommend(model, weights // 2, names)
    assert {each.name for each in recommend(model, weights, names, ranks=8)} == set(names)


@pytest.mark.slow
def test_the_command_looks_at_every_name() -> None:
    answer = json.loads(printed("recommend", "--model", "tiny-llama", "--memory", "7MiB", "--json", "--top", "0"))
    assert {"lomo", "adalomo"} <= {each["name"] for each in answer}
    assert all(each["memory"]["total"] <= 7 * 2**20 for each in answer)


def test_what_the_command_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["adalomo", "adamw_torch", "lomo", "sgd", "lookahead"]
    monkeypatch.setattr("anyoptim.cli.recommend.list_optimizers", lambda **_: names)
    recommend_command("tiny-llama", "7MiB", top=0, as_json=True)
    assert {"lomo", "adalomo", "sgd"} == {each["name"] for each in json.loads(capsys.readouterr().out)}
    recommend_command("tiny-llama", "7MiB", top=2)
    text = capsys.readouterr().out
    assert "3 of 4 optimizers train tiny-llama in float32 within 7MiB" in text
    assert "adamw_torch does not fit" in text
    assert 'optim="lomo"' in text
    assert "and 1 more; --top 0 shows all" in text
    for as_json in (False, True):
        with pytest.raises(anyoptim.OptimError, match="take more ranks"):
            recommend_command("tiny-llama", "1MB", as_json=as_json)
        assert capsys.readouterr().out == ("[]\n" if as_json else "")


@pytest.mark.parametrize(("in_terminal", "as_json"), [(True, False), (True, True), (False, False)])
def test_progress_is_for_a_person_who_waits(
    in_terminal: bool, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("anyoptim.cli.recommend.list_optimizers", lambda **_: ["sgd", "lomo"])
    leader, follower = os.openpty()
    if in_terminal:
        monkeypatch.setattr(sys, "stderr", os.fdopen(follower, "w"))
    recommend_command("tiny-llama", "7MiB", as_json=as_json)
    os.set_blocking(leader, False)
    shown = os.read(leader, 100_000).decode() if in_terminal and not as_json else ""
    assert ("planning" in shown and "2/2" in shown) == (in_terminal and not as_json)
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
