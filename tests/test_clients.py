"""Clients that call the Trainer's functions themselves, as LLaMA-Factory and unsloth do."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import arguments, data, inner, llama, same_weights, skip_unless_installed, train, weights
from transformers import Trainer
from transformers.training_args import OptimizerNames

import anyoptim
from anyoptim.building.records import record_of
from anyoptim.names import lookup

pytestmark = pytest.mark.trainer

THEIRS = [each.value for each in OptimizerNames if lookup.is_known(each.value)]
"""The names that transformers has by itself: read before anything is enabled."""


def answers(name: str, folder: Path, **fields: Any) -> tuple[Any, Any]:
    """What transformers answers, and what anyoptim does."""
    args = arguments(folder, optim=name, **fields)
    try:
        theirs = Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, ValueError) as error:
        pytest.skip(str(error))
    with anyoptim.enable():
        return theirs, Trainer.get_optimizer_cls_and_kwargs(args)


@pytest.mark.parametrize("name", THEIRS)
def test_a_name_of_transformers_is_answered_as_transformers_does(name: str, tmp_path: Path) -> None:
    with anyoptim.enable():
        spec = anyoptim.optimizer_info(name)
    if spec.package == "anyoptim" or spec.traits.needs_targets:
        pytest.skip("an engine of ours, as docs/differences.md says")
    theirs, ours = answers(name, tmp_path, weight_decay=0.1)
    assert ours == theirs
    theirs, ours = answers(name, tmp_path, weight_decay=0.1, adam_beta1=0.8, adam_epsilon=1e-6)
    assert ours[0] is theirs[0]
    assert theirs[1].items() <= ours[1].items()
    assert ours[1].keys() - theirs[1].keys() <= {"betas", "eps"}, "what the user changed reaches every optimizer"


def test_the_keywords_fit_a_class_of_the_clients_own(tmp_path: Path) -> None:
    galore_torch = pytest.importorskip("galore_torch")
    parameters = [torch.nn.Parameter(torch.ones(4, 4))]
    _, (_, keywords) = answers("adamw_torch", tmp_path)
    galore_torch.GaLoreAdamW(parameters, **keywords)


def test_what_the_user_set_is_answered_too(tmp_path: Path) -> None:
    with anyoptim.enable():
        args = arguments(tmp_path, optim="adamw_torch", optim_args="amsgrad=true,eps=1e-6", weight_decay=0.1)
        cls, keywords = Trainer.get_optimizer_cls_and_kwargs(args, llama())
    assert cls is torch.optim.AdamW
    assert keywords == {"lr": args.learning_rate, "betas": (0.9, 0.999), "eps": 1e-6, "amsgrad": True}


@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("name", ["adamw_torch", "sgd", "torch.optim:NAdam", "timm/lamb"])
def test_the_class_alone_is_the_very_class(name: str, tmp_path: Path) -> None:
    skip_unless_installed(name)
    model = llama()
    args = arguments(tmp_path, optim=name, learning_rate=1e-3)
    cls, keywords = Trainer.get_optimizer_cls_and_kwargs(args, model)
    planned = anyoptim.plan(name, model, args)
    assert cls is planned.implementation.load()
    bare, whole = cls(list(model.parameters()), **keywords), planned.build()
    skipped = {"params", "weight_decay", "initial_lr"}
    assert [{key: group[key] for key in group if key not in skipped} for group in bare.param_groups[:1]] == [
        {key: group[key] for key in group if key not in skipped} for group in whole.param_groups[:1]
    ]


@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("name", ["scion", "pytorch_optimizer/scalableshampoo"])
def test_a_default_that_is_a_member_of_an_enum_is_in_no_checkpoint(name: str, tmp_path: Path) -> None:
    """The constructor's own, so the class alone would keep it in its groups; a checkpoint is loaded weights only."""
    skip_unless_installed(name)
    optimizer = Trainer(llama(), arguments(tmp_path, optim=name), train_dataset=data()).create_optimizer()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    assert torch.load(tmp_path / "optimizer.pt", weights_only=True)["param_groups"]


def client(trainer: Trainer, groups: list[dict[str, Any]] | None = None) -> torch.optim.Optimizer:
    """As unsloth makes an optimizer: asked without a model, groups of its own."""
    cls, keywords = Trainer.get_optimizer_cls_and_kwargs(trainer.args)
    decay = keywords.get("weight_decay", 0.0)
    own = [{"params": list(trainer.model.parameters()), "weight_decay": decay}]
    return cls(own if groups is None else groups, **keywords)


class Client(Trainer):
    """Makes its optimizer without the Trainer's own."""

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        self.optimizer = client(self)
        return self.optimizer


@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("name", ["adamw_torch", "lion", "schedule_free_adamw", "lookahead(sgd)", "lomo"])
def test_what_a_client_builds_is_taken_over(name: str, tmp_path: Path) -> None:
    """It names itself in checkpoints, saves the average, resumes bit-equal, and refuses another optimizer's state."""
    fields = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "max_grad_norm": 0.0, "learning_rate": 1e-3}
    constant = {"lr_scheduler_type": "constant"}
    straight = train(llama(), arguments(tmp_path, optim=name, **fields, **constant), Client)
    record = record_of(straight.optimizer)
    assert record is not None and record.writer.name == name
    state = torch.load(tmp_path / "checkpoint-2" / "optimizer.pt", weights_only=True)
    assert state["anyoptim"]["name"] == name
    resumed = Client(llama(1), arguments(tmp_path, optim=name, **fields, **constant), train_dataset=data())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert same_weights(weights(resumed.model), weights(straight.model))
    other = Trainer(llama(), arguments(tmp_path, optim="sgd", **fields), train_dataset=data())
    with pytest.raises(anyoptim.CheckpointError, match="was written by"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize(
    ("optim_args", "name"),
    [
        ("layer_decay=0.5", "layer_decay"),
        ('{"groups": [{"match": "norm", "lr": 1.0}]}', "groups"),
        ("embedding_lr=1e-5", "embedding_lr"),
        ('{"no_decay": ["embed"]}', "no_decay"),
    ],
)
def test_what_needs_the_model_is_refused_without(optim_args: str, name: str, tmp_path: Path) -> None:
    model = llama()
    args = arguments(tmp_path, optim="adamw_torch", optim_args=optim_args, learning_rate=1e-3, weight_decay=0.1)
    trainer = Trainer(model, args, train_dataset=data())
    with pytest.raises(anyoptim.UnsupportedError, match=f"{name} needs the model.*or drop {name}"):
        client(trainer)
    cls, keywords = Trainer.get_optimizer_cls_and_kwargs(args, model)
    made = cls([{"params": list(model.parameters()), "weight_decay": 0.1}], **keywords)
    expected = anyoptim.plan("adamw_torch", model, args).build()
    assert [group["lr"] for group in made.param_groups] == [group["lr"] for group in expected.param_groups]
    assert len(made.param_groups) > 2 or name == "no_decay"


@pytest.mark.usefixtures("enabled")
def test_weight_decay_in_optim_args_reaches_a_clients_groups(tmp_path: Path) -> None:
    model = llama()
    args = arguments(tmp_path, optim="adamw_torch", optim_args="weight_decay=0.3", weight_decay=0.1)
    trainer = Trainer(model, args, train_dataset=data())
    assert [group["weight_decay"] for group in client(trainer).param_groups] == [0.3]
    bare = client(trainer, [{"params": list(model.parameters())}])
    assert [group["weight_decay"] for group in bare.param_groups] == [0.3]
    with pytest.raises(anyoptim.UnsupportedError, match=r"weight_decay=0\.3 of optim_args would have no effect"):
        client(trainer, [{"params": list(model.parameters()), "weight_decay": 0.1}])
    cls, keywords = Trainer.get_optimizer_cls_and_kwargs(args, model)
    theirs = [{"params": list(model.parameters()), "weight_decay": 0.1}]
    assert [group["weight_decay"] for group in cls(theirs, **keywords).param_groups] == [0.3, 0.0]
    assert [group["weight_decay"] for group in trainer.create_optimizer().param_groups] == [0.3, 0.0]


@pytest.mark.usefixtures("enabled")
def test_a_client_that_trains_a_part_gets_the_plans_groups_of_that_part(tmp_path: Path) -> None:
    model = llama()
    args = arguments(tmp_path, optim="muon", learning_rate=0.02, optim_args="fallback_lr=1e-3")
    cls, keywords = Trainer.get_optimizer_cls_and_kwargs(args, model)
    part = list(model.model.layers[0].parameters())
    made = cls([{"params": part, "weight_decay": 0.0}], **keywords)
    assert {each for group in made.param_groups for each in group["params"]} == set(part)
    with pytest.raises(anyoptim.UnsupportedError, match="parameters of another one"):
        cls([{"params": list(llama().parameters())}], **keywords)


# ---------------------------------------------------------------- what trains is another one


class OwnMuon(Trainer):
    """As with a flag of a client's own."""

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.125)
        return self.optimizer


def what_is_said(trainer: Trainer) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    return [str(each.message) for each in caught if "has no effect" in str(each.message)]


@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("given", [False, True])
def test_another_optimizer_than_the_named_one_is_said_once(given: bool, tmp_path: Path) -> None:
    model = llama()
    args = arguments(tmp_path, optim="lion", max_steps=2, save_strategy="steps", save_steps=2)
    own = torch.optim.SGD(model.parameters(), lr=0.125)
    trainer: Trainer = (
        Trainer(model, args, train_dataset=data(), optimizers=(own, None))
        if given
        else OwnMuon(model, args, train_dataset=data())
    )
    (said,) = what_is_said(trainer)
    assert "optim='lion' has no effect" in said and "torch.optim.sgd:SGD trains" in said
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    record = state["stateful_callbacks"]["OptimizerRecord"]["attributes"]
    assert record["class"] == "torch.optim.sgd:SGD"
    assert record["hyperparameters"]["lr"] == 0.125
    trainer.create_model_card(model_name="tiny")
    assert "- optimizer: torch.optim.sgd:SGD with lr=0.125" in (tmp_path / "README.md").read_text()
    assert record_of(inner(trainer.optimizer)) is None
    again = OwnMuon(llama(), args, train_dataset=data())
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("name", [None, "adamw_torch", "soap"])
def test_what_is_as_named_is_not_said(name: str | None, tmp_path: Path) -> None:
    skip_unless_installed(name or "adamw_torch")
    """Nor is an optimizer of one's own where ``optim`` was not set."""
    model = llama()
    args = arguments(tmp_path, max_steps=1, **({"optim": name} if name else {}))
    if name == "soap":
        own = anyoptim.get_optimizer("soap", model, args)
    else:
        own = (torch.optim.AdamW if name else torch.optim.SGD)(model.parameters(), lr=0.1)
    assert not what_is_said(Trainer(model, args, train_dataset=data(), optimizers=(own, None)))


@pytest.mark.usefixtures("enabled")
def test_another_optimizer_of_ours_than_the_named_one(tmp_path: Path) -> None:
    model = llama()
    args = arguments(tmp_path, max_steps=1, optim="soap")
    own = anyoptim.get_optimizer("lion", model, lr=1e-4)
    (said,) = what_is_said(Trainer(model, args, train_dataset=data(), optimizers=(own, None)))
    assert "lion (upstream" in said
