"""What differs for some parameters: every form of writing it, the rates that come out, and mistakes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from toys import (
    arguments,
    bert,
    data,
    llama,
    lora,
    plain_steps,
    same_weights,
    train,
    values_by_parameter,
    weights,
)
from transformers import Trainer

import anyoptim
from anyoptim import OptimArgsError
from anyoptim.names.registry import unregister

TARGETS = ["q_proj", "v_proj"]
ENTRIES = [
    {"match": "embed_tokens", "lr": 1e-5},
    {"match": "q_proj", "lr_ratio": 16.0, "weight_decay": 0.2},
    {"match": "norm", "eps": 1e-6, "betas": (0.8, 0.9)},
]
COMPACT = (
    "embed_tokens@lr=1e-5,q_proj@lr_ratio=16,norm@eps=1e-6,norm@betas=(0.8,0.9),q_proj@weight_decay=0.2,amsgrad=true"
)


def built(name: str = "adamw_torch", model: nn.Module | None = None, **given: Any) -> dict[str, dict[str, Any]]:
    model = model or llama()
    return values_by_parameter(anyoptim.get_optimizer(name, model, **{"lr": 1e-3, "weight_decay": 0.1, **given}), model)


def written(form: str) -> dict[str, Any]:
    if form == "python":
        return {"groups": ENTRIES, "amsgrad": True}
    if form == "mapping":
        return {"optim_args": {"groups": ENTRIES, "amsgrad": True}}
    if form == "JSON":
        return {"optim_args": json.dumps({"groups": ENTRIES, "amsgrad": True})}
    if form == "JSON in text":
        return {"optim_args": f"groups={json.dumps(ENTRIES)},amsgrad=true"}
    return {"optim_args": COMPACT}


@pytest.mark.parametrize("form", ["python", "mapping", "JSON", "JSON in text", "compact"])
def test_every_form_gives_the_same_groups(form: str) -> None:
    found = built(**written(form))
    assert found == built(**written("python"))
    assert found["model.embed_tokens.weight"]["lr"] == 1e-5
    query = found["model.layers.1.self_attn.q_proj.weight"]
    assert (query["lr"], query["weight_decay"]) == (1e-3 * 16, 0.2)
    norm = found["model.norm.weight"]
    assert (norm["eps"], norm["betas"], norm["weight_decay"], norm["lr"]) == (1e-6, (0.8, 0.9), 0.0, 1e-3)
    assert all(each["amsgrad"] for each in found.values())


def test_the_compact_form_survives_a_shell_and_a_yaml_file() -> None:
    """Without any quotes, but for the parentheses of a pair."""
    text = re.sub(r"norm@betas=\(0.8,0.9\),", "", COMPACT)
    said = subprocess.run(["bash", "-c", f"printf %s {text}"], capture_output=True, text=True, check=True).stdout
    assert said == text
    for form in (f"optim_args: {text}\n", f"- optim_args: {COMPACT}\n", f"{{optim_args: '{COMPACT}'}}"):
        loaded = yaml.safe_load(form)
        loaded = loaded[0] if isinstance(loaded, list) else loaded
        assert loaded["optim_args"] in (text, COMPACT)


@pytest.mark.parametrize("match", [r"\.bias$", r"layers\.(0|1)\.", "a{1,2}", r"(?=q)q_proj", "(x)=y", "[ab]"])
def test_any_regex_can_be_written_compactly(match: str) -> None:
    parsed = anyoptim.parse_optim_args(f"eps=1e-6, {match}@weight_decay = 0.5 ,{match}@lr=1e-4", "adamw_torch")
    assert parsed == {"eps": 1e-6, "groups": [{"match": match, "weight_decay": 0.5, "lr": 1e-4}]}


@pytest.mark.trainer
@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("name", ["adamw_torch", "apollo_adamw", "muon", "schedule_free_adamw", "adalomo"])
def test_the_trainer_builds_what_get_optimizer_builds(name: str, tmp_path: Path) -> None:
    text = "embed_tokens@lr=1e-5,q_proj@lr_ratio=2,no_decay=[lm_head],layer_decay=0.5"
    targets = "all-linear" if name == "apollo_adamw" else None
    fields = {"optim_args": text, "optim_target_modules": targets, "weight_decay": 0.1, "learning_rate": 1e-3}
    theirs, ours = llama(), llama()
    args = arguments(tmp_path, optim=name, lr_scheduler_type="constant", max_steps=5, **fields)
    trainer = Trainer(theirs, args, train_dataset=data())
    built_by_trainer = trainer.create_optimizer()
    optimizer = anyoptim.get_optimizer(name, ours, args)
    assert values_by_parameter(built_by_trainer, theirs) == values_by_parameter(optimizer, ours)
    plain_steps(theirs, built_by_trainer)
    plain_steps(ours, optimizer)
    assert same_weights(weights(theirs), weights(ours))


# ---------------------------------------------------------------- shorthands


@pytest.mark.usefixtures("enabled")
def test_lora_plus(tmp_path: Path) -> None:
    """Against two groups of torch's AdamW, bit for bit."""
    args = arguments(tmp_path, optim="adamw_torch", optim_args="lora_plus_ratio=16", learning_rate=1e-3, max_steps=10)
    ours = train(lora(target_modules=TARGETS), args).model
    model = lora(target_modules=TARGETS)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    by_hand = torch.optim.AdamW(
        [
            {"params": [each for name, each in trained.items() if "lora_A" in name], "lr": 1e-3},
            {"params": [each for name, each in trained.items() if "lora_B" in name], "lr": 1e-3 * 16},
        ],
        weight_decay=0.0,
    )
    theirs = train(model, arguments(tmp_path, max_steps=10), optimizers=(by_hand, None)).model
    assert same_weights(weights(ours), weights(theirs))


def test_shorthands() -> None:
    found = built(embedding_lr=1e-5, no_decay=["lm_head", "q_proj"])
    assert found["model.embed_tokens.weight"] == {**found["model.embed_tokens.weight"], "lr": 1e-5, "weight_decay": 0.1}
    assert (
        found["lm_head.weight"]["weight_decay"] == found["model.layers.0.self_attn.q_proj.weight"]["weight_decay"] == 0
    )
    assert found["model.layers.0.self_attn.k_proj.weight"]["weight_decay"] == 0.1
    tied = built(model=bert(), embedding_lr=1e-5, no_decay=r"position_embeddings|\.intermediate\.")
    assert tied["bert.embeddings.word_embeddings.weight"]["lr"] == 1e-5
    assert tied["bert.embeddings.position_embeddings.weight"]["weight_decay"] == 0


def test_an_entry_wins_over_shorthands_and_layer_decay_scales_ratios() -> None:
    found = built(
        embedding_lr=1e-5,
        layer_decay=0.5,
        no_decay="proj",
        groups=[
            {"match": "embed_tokens", "lr_ratio": 2},
            {"match": r"layers\.0.*q_proj", "lr": 7e-4},
            {"match": r"q_proj", "lr_ratio": 3, "weight_decay": 0.3},
        ],
    )
    assert found["model.embed_tokens.weight"]["lr"] == 1e-3 * 2 * 0.5**3
    assert found["model.layers.0.self_attn.q_proj.weight"] == found["model.layers.0.self_attn.q_proj.weight"] | {
        "lr": 7e-4,
        "weight_decay": 0.0,
    }
    query = found["model.layers.1.self_attn.q_proj.weight"]
    assert (query["lr"], query["weight_decay"]) == (1e-3 * (3 * 0.5), 0.3)
    assert built(embedding_lr=1e-5, layer_decay=0.5)["model.embed_tokens.weight"]["lr"] == 1e-5


def test_targets_of_another_rank() -> None:
    given = {"optim_target_modules": "hidden-matrices", "rank": 8}
    found = built("apollo_adamw", optim_args=r"layers\.0\.@rank=4", **given)
    assert found["model.layers.0.mlp.up_proj.weight"]["rank"] == 4
    assert found["model.layers.1.mlp.up_proj.weight"]["rank"] == 8
    assert "rank" not in found["model.layers.0.input_layernorm.weight"]
    with pytest.raises(
        OptimArgsError, match=r"groups entry 1 \('norm'\) sets rank, which only a target of apollo_adamw"
    ):
        built("apollo_adamw", optim_args="norm@rank=4", **given)


def test_without_overrides_the_groups_are_transformers_own(tmp_path: Path) -> None:
    model = llama()
    groups = Trainer(model, arguments(tmp_path, weight_decay=0.1)).create_optimizer().param_groups
    ours = anyoptim.plan("adamw_torch", model, weight_decay=0.1, groups=[{"match": "lm_head", "lr": 1.0}]).groups
    assert [len(group["params"]) for group in groups] == [16, 5]
    assert [len(group["params"]) for group in ours] == [15, 5, 1]  # the first two stay, for checkpoints


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"groups": [{"match": "embed", "lr": 1, "lr_ratio": 2}]}, r"entry 1 \('embed'\) has both lr and lr_ratio"),
        (
            {"groups": [{"match": "embed", "lrr": 1}]},
            r"entry 1 \('embed'\) has the unknown key 'lrr'. Did you mean 'lr'",
        ),
        ({"groups": [{"match": "("}]}, r"entry 1 \('\('\) is no valid regex: missing \)"),
        ({"groups": [{"match": "embed"}]}, r"entry 1 \('embed'\) sets nothing"),
        ({"groups": [{"lr": 1}]}, r"entry 1 must be a mapping with the key 'match'"),
        ({"groups": [{"match": "embed", "lr": 1}, "norm"]}, r"entry 2 must be a mapping"),
        ({"groups": {"match": "embed", "lr": 1}}, "groups must be a list such as"),
        ({"groups": []}, "groups must be a list such as"),
        ({"groups": [{"match": "embed", "lr": "fast"}]}, r"entry 1 \('embed'\): lr must be float, not 'fast'"),
        ({"groups": [{"match": "embed", "lr": -1}]}, r"entry 1 \('embed'\): lr must be >= 0"),
        ({"groups": [{"match": "embed", "lr_ratio": 0}]}, r"entry 1 \('embed'\): lr_ratio must be > 0"),
        (
            {"groups": [{"match": "embd_tokens", "lr": 1}]},
            r"'embd_tokens'\) matches no trainable .* mean 'embed_tokens'",
        ),
        ({"optim_args": '{"groups": [{"match": "a", "lr": 1, "lr": 2}]}'}, "gives 'lr' twice, in the groups entry 'a'"),
        ({"optim_args": '{"groups": [{"match": "a" "lr": 1}]}'}, "no valid JSON object"),
        ({"optim_args": 'groups=[{"match": "a", "lr" 1}]'}, "groups is no valid JSON list"),
        ({"optim_args": "a@lr=1,a@lr=2"}, "gives 'lr' twice, in the groups entry 'a'"),
        ({"optim_args": "a@lr="}, "'a@lr=', which is not of the form"),
        ({"optim_args": "a@b@=1"}, "'a@b@'"),
        ({"optim_args": "a@lr=1,groups=[]"}, "gives 'groups' twice"),
        ({"no_decay": "("}, r"no_decay '\(' is no valid regex"),
        ({"no_decay": ["nothing"]}, "no_decay 'nothing' matches no trainable parameter"),
        ({"layer_decay": 0}, "layer_decay must be in"),
        ({"layer_decay": 1.5}, "layer_decay must be in"),
        ({"lora_plus_ratio": 16}, "lora_plus_ratio matches nothing: the model trains no LoRA B"),
        ({"lora_plus_rato": 16}, "Did you mean 'lora_plus_ratio'"),
    ],
    ids=lambda each: each if isinstance(each, str) else None,
)
def test_mistakes_name_the_entry(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptimArgsError, match=message) as caught:
        anyoptim.plan("adamw_torch", llama(), **given)
    assert len(str(caught.value)) < 400


def test_what_an_optimizer_has_for_all_groups_together() -> None:
    class Global(torch.optim.SGD):
        def __init__(self, params: Any, lr: float = 0.1, verbose: bool = False) -> None:
            super().__init__(params, lr)

    anyoptim.register("global")(Global)
    try:
        planned = anyoptim.plan("global", llama(), groups=[{"match": "norm", "verbose": True}])
        with pytest.raises(OptimArgsError, match=r"\('norm'\) sets verbose, which global has for all groups"):
            planned.build()
    finally:
        unregister("global")


def test_an_embedding_that_is_not_there_or_frozen() -> None:
    model = llama()
    model.model.embed_tokens.requires_grad_(False)
    for given in ({"embedding_lr": 1.0}, {"groups": [{"match": "embed_tokens", "lr": 1.0}]}):
        with pytest.raises(OptimArgsError, match="matches no"):
            anyoptim.plan("adamw_torch", model, **given)
    with pytest.raises(OptimArgsError, match="no list of layers"):
        anyoptim.plan("adamw_torch", nn.Linear(2, 2), layer_decay=0.9)


def test_an_entry_that_earlier_ones_hide_is_said() -> None:
    entries = [{"match": "proj", "lr": 1e-4}, {"match": "q_proj", "lr": 1e-5}]
    assert any(
        "'q_proj' is never used" in each for each in anyoptim.plan("adamw_torch", llama(), groups=entries).advice
    )


def test_the_plan_shows_every_rate_and_why() -> None:
    planned = anyoptim.plan("adamw_torch", llama(), lr=1e-3, layer_decay=0.5, optim_args="embed_tokens@lr=1e-5")
    text = str(planned)
    for part in ("1e-05", "0.00025 … 0.0005", "layer_decay", "embed_tokens", "hidden matrix", "output head"):
        assert part in text, part
    described: Any = planned.to_dict()
    row = next(each for each in described["parameters"] if each["name"] == "model.embed_tokens.weight")
    assert (row["role"], row["set_by"]) == ("embedding", "embed_tokens")
    json.dumps(described)


@pytest.mark.parametrize("name", ["lomo", "adalomo"])
def test_upstream_classes_without_groups_take_none(name: str) -> None:
    with pytest.raises(OptimArgsError, match="has no hyperparameter 'layer_decay'"):
        anyoptim.plan(name, llama(), optim_args="implementation=upstream,layer_decay=0.9")


# ---------------------------------------------------------------- one value for all groups


@pytest.mark.parametrize("name", ["prodigy", "dadapt_adam", "pytorch_optimizer/prodigy", "lookahead(dadapt_lion)"])
@pytest.mark.parametrize("text", ["layer_decay=0.5", "embedding_lr=1e-4", "down_proj@lr_ratio=0.1", "down_proj@lr=0.1"])
def test_a_rate_of_its_own_is_refused_where_a_package_has_one_for_all(name: str, text: str) -> None:
    with pytest.raises(OptimArgsError, match=r"has one lr for all parameters; leave it out, or take an optimizer"):
        anyoptim.plan(name, llama(), lr=1.0, optim_args=text)


def test_what_is_read_once_for_all_groups_is_no_setting_of_one() -> None:
    with pytest.raises(
        OptimArgsError, match=r"prodigy: groups entry 1 \('norm'\) sets betas for .*norm.*one betas for all"
    ):
        anyoptim.plan("prodigy", llama(), groups=[{"match": "norm", "betas": (0.5, 0.9)}])
    with pytest.raises(
        OptimArgsError, match=r"embedding_lr sets lr for model\.embed_tokens\.weight, but prodigy has one"
    ):
        anyoptim.plan("muon+prodigy", llama(), embedding_lr=1e-3)


def test_what_each_group_has_stays_its_own_there() -> None:
    found = built("prodigy", lr=1.0, groups=[{"match": "down_proj", "lr": 1.0, "weight_decay": 0.3}])
    assert found["model.layers.0.mlp.down_proj.weight"]["weight_decay"] == 0.3
    assert anyoptim.plan("muon+prodigy", llama(), layer_decay=1.0)
    hybrid = built("muon+prodigy", optim_args="down_proj@lr_ratio=0.1", lr=1.0)  # Muon has a rate for each group
    assert hybrid["model.layers.0.mlp.down_proj.weight"]["lr"] == 0.1


def test_a_step_size_of_its_own_is_every_groups() -> None:
    given = {"lr": None, "optim_args": "relative_step=true"}
    with pytest.raises(OptimArgsError, match="but adafactor takes a step size of its own"):
        anyoptim.plan("adafactor", llama(), embedding_lr=1e-4, **given)
