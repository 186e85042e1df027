"""Every name through the real Trainer, however the Trainer gets its arguments."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import (
    GUIDE_SPELLINGS,
    NAMES,
    arguments,
    data,
    falls,
    inner,
    llama,
    losses,
    needs_of,
    plain_steps,
    run_arguments,
    same_weights,
    train,
    weights,
)
from transformers import HfArgumentParser, Trainer, TrainingArguments

import anyoptim
from anyoptim.building.records import built

pytestmark = [pytest.mark.trainer, pytest.mark.usefixtures("enabled")]


def from_command_line(fields: dict[str, Any]) -> TrainingArguments:
    words = [word for key, value in fields.items() if value not in (None, []) for word in (f"--{key}", str(value))]
    return HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(words)[0]


@pytest.mark.parametrize("source", ["TrainingArguments", "HfArgumentParser", "to_dict"])
@pytest.mark.parametrize("name", [*NAMES, *GUIDE_SPELLINGS])
def test_each_name_trains(name: str, source: str, tmp_path: Path) -> None:
    steps = 30 if source == "TrainingArguments" else 2  # the others have to become the same arguments
    fields = run_arguments(tmp_path, optim=name, max_steps=steps, **needs_of(name))
    fields["report_to"] = "none"
    args = from_command_line(fields) if source == "HfArgumentParser" else TrainingArguments(**fields)
    if source == "to_dict":
        args = TrainingArguments(**args.to_dict())
    assert args.optim == name
    trainer = train(llama(), args)
    assert len(losses(trainer)) == steps
    assert steps < 30 or falls(losses(trainer)), losses(trainer)


FORMS = {
    "TrainingArguments": lambda fields, tmp: arguments(tmp, **fields),
    "mapping": lambda fields, tmp: fields,
    "namespace": lambda fields, tmp: SimpleNamespace(**fields),
    "none": lambda fields, tmp: None,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_get_optimizer_is_what_the_trainer_builds(name: str, form: str, tmp_path: Path) -> None:
    spec = anyoptim.optimizer_info(name)
    fields = {**needs_of(name), "weight_decay": 0.1, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}
    theirs_model = llama()
    ours_model = copy.deepcopy(theirs_model)
    trainer = Trainer(theirs_model, arguments(tmp_path, optim=name, **fields), train_dataset=data())
    theirs = trainer.create_optimizer()
    overrides: dict[str, Any] = {}
    if form == "none":
        overrides = {
            "lr": fields["learning_rate"],
            "weight_decay": 0.1,
            "optim_args": fields["optim_args"],
            "optim_target_modules": fields["optim_target_modules"],
        }
        if spec.traits.adam_fields:
            overrides |= {"betas": (0.9, 0.999), "eps": 1e-8}
    ours = anyoptim.get_optimizer(name, ours_model, FORMS[form](fields, tmp_path), **overrides)

    assert type(ours) is type(theirs)
    assert described(ours, ours_model) == described(theirs, theirs_model)
    plain_steps(theirs_model, theirs, count=5)
    plain_steps(ours_model, ours, count=5)
    assert same_weights(weights(ours_model), weights(theirs_model))


def described(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> list[dict[str, Any]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [{**group, "params": [names[each] for each in group["params"]]} for group in optimizer.param_groups]


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_reaches_the_decay_groups_only(name: str, tmp_path: Path) -> None:
    model = llama()
    args = arguments(tmp_path, optim=name, **{**needs_of(name), "weight_decay": 0.1})
    trainer = Trainer(model, args, train_dataset=data())
    decaying = set(trainer.get_decay_parameter_names(model))
    optimizer = trainer.create_optimizer()
    names = {parameter: name for name, parameter in model.named_parameters()}
    seen = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            seen.append(names[parameter])
            assert group["weight_decay"] == (0.1 if names[parameter] in decaying else 0.0), names[parameter]
    assert sorted(seen) == sorted(names.values())


@pytest.mark.parametrize("name", NAMES)
def test_adam_fields_the_user_changed_reach_every_group(name: str, tmp_path: Path) -> None:
    changed = {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 3e-7}
    trainer = Trainer(llama(), arguments(tmp_path, optim=name, **{**needs_of(name), **changed}), train_dataset=data())
    for group in trainer.create_optimizer().param_groups:
        if group.get("optimizer") in ("muon", "normuon", "adamuon"):  # beside an Adam they are that one's
            spec = anyoptim.optimizer_info(name).hyperparameters
            assert group["eps"] == next(each.default for each in spec if each.name == "eps")
            continue
        if "betas" in group:
            assert group["betas"] == (0.8, 0.95)
        if isinstance(group.get("eps"), float):
            assert group["eps"] == 3e-7


@pytest.mark.parametrize("name", [name for name in NAMES if not anyoptim.optimizer_info(name).traits.adam_fields])
def test_unchanged_adam_fields_leave_an_optimizer_its_own(name: str, tmp_path: Path) -> None:
    settings = anyoptim.plan(name, llama(), arguments(tmp_path, **needs_of(name))).hyperparameters
    assert {settings[key].source for key in ("betas", "eps") if key in settings} <= {"default"}


@pytest.mark.parametrize("name", NAMES)
def test_create_optimizer_twice_builds_the_same(name: str, tmp_path: Path) -> None:
    model = llama()
    args = arguments(tmp_path, optim=name, **needs_of(name))
    trainer = Trainer(
        model,
        args,
        train_dataset=data(),
        optimizer_cls_and_kwargs=Trainer.get_optimizer_cls_and_kwargs(args, model),
    )
    first = described(trainer.create_optimizer(), model)
    trainer.optimizer = None
    assert described(trainer.create_optimizer(), model) == first


@pytest.mark.parametrize("name", NAMES)
def test_a_subclass_may_ask_without_a_model(name: str, tmp_path: Path) -> None:
    args = arguments(tmp_path, optim=name, **needs_of(name))
    if anyoptim.optimizer_info(name).traits.needs_targets:
        with pytest.raises(anyoptim.UnsupportedError, match="needs the model"):
            Trainer.get_optimizer_cls_and_kwargs(args)
        return
    cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args)
    model = llama()
    groups = [{"params": [parameter], "lr": 0.25} for parameter in model.parameters()]
    optimizer = cls(groups, **kwargs)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25] * len(groups)


def test_a_subclass_that_makes_its_own_groups_keeps_them(tmp_path: Path) -> None:
    class OneRate(Trainer):
        def create_optimizer(self, model: Any = None) -> Any:
            cls, kwargs = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = cls([{"params": [each], "lr": 0.5} for each in self.model.parameters()], **kwargs)
            return self.optimizer

    model = llama()
    optimizer = OneRate(model, arguments(tmp_path, optim="adamw_torch"), train_dataset=data()).create_optimizer()
    assert len(optimizer.param_groups) == len(list(model.parameters()))
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_foreign_groups_do_not_fit_an_optimizer_that_routes(tmp_path: Path) -> None:
    model = llama()
    args = arguments(tmp_path, optim="apollo_adamw", **needs_of("apollo_adamw"))
    cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
    with pytest.raises(anyoptim.UnsupportedError, match="makes its own param groups"):
        cls([{"params": list(model.parameters()), "lr": 0.5}], **kwargs)


@pytest.mark.parametrize("name", [name for name in NAMES if anyoptim.optimizer_info(name).fused_backward])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_fused_optimizers_update_once_per_step_at_the_scheduled_rate(
    name: str, accumulation: int, tmp_path: Path
) -> None:
    """The Trainer passes learning_rate= to accelerator.backward for these names; ours reads its groups."""
    updates: list[float] = []
    model = llama()
    args = arguments(tmp_path, optim=name, gradient_accumulation_steps=accumulation, max_steps=5, **needs_of(name))
    trainer = Trainer(model, args, train_dataset=data())
    engine: Any = built(trainer.create_optimizer())
    step_part = engine.step_part

    def counted(group: dict[str, Any], parameters: list[torch.Tensor]) -> Any:
        if any(each is model.lm_head.weight for each in parameters):
            updates.append(group["lr"])
        return step_part(group, parameters)

    engine.step_part = counted
    trainer.train()
    rate = args.learning_rate
    assert updates == pytest.approx([rate * (5 - step) / 5 for step in range(5)])


@pytest.mark.parametrize("name", ["lomo", "adalomo"])
def test_accumulated_micro_batches_equal_one_batch(name: str, tmp_path: Path) -> None:
    results = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        model = llama()
        args = arguments(
            tmp_path,
            optim=name,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            **needs_of(name),
        )
        train(model, args)
        results.append(weights(model))
    for key in results[0]:
        torch.testing.assert_close(results[0][key], results[1][key], rtol=1e-3, atol=1e-4)


def test_lomo_upstream_still_trains(tmp_path: Path) -> None:
    fields = {**needs_of("lomo"), "optim_args": "implementation=upstream"}
    trainer = train(llama(), arguments(tmp_path, optim="lomo", max_steps=30, **fields))
    assert type(inner(trainer.optimizer)).__module__ == "lomo_optim.lomo"
    assert falls(losses(trainer))


@pytest.mark.parametrize("fields", [{"max_steps": 20}, {"num_train_epochs": 2, "max_steps": -1}])
@pytest.mark.parametrize("name", ["schedule_free_adamw", "schedule_free_sgd"])
def test_a_warmup_ratio_arrives_as_steps(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    ratio = "warmup_ratio" if ratio_field() else "warmup_steps"
    args = arguments(tmp_path, optim=name, **{ratio: 0.1}, **{**needs_of(name), **fields})
    subset = torch.utils.data.Subset(data(), range(96))
    trainer = train(llama(), args, train_dataset=subset)
    expected = 2 if fields["max_steps"] == 20 else 3  # 10 % of 20 steps; of 2 epochs of 12 steps, rounded up
    assert {group["warmup_steps"] for group in trainer.optimizer.param_groups} == {expected}


def test_a_warmup_ratio_is_never_taken_for_steps(tmp_path: Path) -> None:
    class OwnScheduler(Trainer):
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            self.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer or self.optimizer, factor=1.0)
            return self.lr_scheduler

    ratio = "warmup_ratio" if ratio_field() else "warmup_steps"
    fields = {**needs_of("schedule_free_sgd"), ratio: 0.1, "num_train_epochs": 1, "max_steps": -1}
    with pytest.raises(anyoptim.OptimArgsError, match="warmup ratio needs the number"):
        train(llama(), arguments(tmp_path, optim="schedule_free_sgd", **fields), OwnScheduler)


def ratio_field() -> bool:
    """transformers 4.57 has a field of its own for the ratio; 5.x takes it in warmup_steps."""
    import transformers

    return int(transformers.__version__.partition(".")[0]) < 5


RESUMABLE = [name for name in NAMES if anyoptim.optimizer_info(name).default.resumable]


@pytest.mark.parametrize("name", RESUMABLE)
def test_resume_is_bit_equal(name: str, tmp_path: Path) -> None:
    fields = {**needs_of(name), "optim": name, "max_steps": 10, "save_strategy": "steps", "save_steps": 5}
    straight = llama()
    train(straight, arguments(tmp_path, **fields))
    resumed = llama(seed=1)
    trainer = Trainer(resumed, arguments(tmp_path, **fields), train_dataset=data())
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert same_weights(weights(resumed), weights(straight))


UNRESUMABLE = [
    (name, each.name)
    for name in NAMES
    for each in anyoptim.optimizer_info(name).implementations
    if not each.resumable and each.installed
]


@pytest.mark.parametrize(("name", "implementation"), UNRESUMABLE)
def test_what_cannot_be_resumed_is_said(name: str, implementation: str, tmp_path: Path) -> None:
    fields = {**needs_of(name), "optim_args": f"implementation={implementation}", "save_strategy": "steps"}
    advice = anyoptim.plan(name, llama(), arguments(tmp_path, **fields)).advice
    assert any("cannot be resumed" in sentence for sentence in advice)
