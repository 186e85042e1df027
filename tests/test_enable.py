"""What enable() installs, and that disable() leaves transformers as it was found."""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import logging
import pickle
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.trainer
from accelerate import Accelerator
from processes import in_new_process
from toys import arguments, data, inner, llama, needs_of, train
from transformers import HfArgumentParser, Trainer, TrainingArguments, modelcard
from transformers.training_args import OptimizerNames

import anyoptim
from anyoptim.arguments.fields import CHANGEABLE_DEFAULTS
from anyoptim.arguments.keys import TRAINING_ARGUMENTS_FIELDS
from anyoptim.integrations.transformers import _add_member, _remove_member
from anyoptim.names import lookup

try:
    from transformers.trainer_jit_checkpoint import JITCheckpointCallback as emergency
except ImportError:  # transformers 4.57
    emergency = object

pytestmark = pytest.mark.trainer


def footprint() -> dict[str, object]:
    """Everything that enable() may touch."""
    return {
        "attributes": {
            key: value for key, value in vars(OptimizerNames).items() if not isinstance(value, (dict, list))
        },
        "members": list(OptimizerNames),
        "names": list(OptimizerNames._member_names_),
        "map": dict(OptimizerNames._member_map_),
        "values": dict(OptimizerNames._value2member_map_),
        "missing": OptimizerNames._missing_,
        "owners": [
            {key: value for key, value in vars(owner).items() if callable(value) or isinstance(value, staticmethod)}
            for owner in (Trainer, Accelerator, transformers.trainer, modelcard, emergency, argparse._ActionsContainer)
        ],
        "where our log lines go": logging.getLogger("anyoptim").parent,
    }


@pytest.mark.usefixtures("restored_registry")
def test_disable_restores_everything() -> None:
    before = footprint()
    anyoptim.enable()
    assert footprint() != before
    anyoptim.register("registered_later")(torch.optim.SGD)
    assert OptimizerNames("registered_later") == "registered_later"
    OptimizerNames("torch.optim:NAdam")  # a class path becomes a member too
    anyoptim.disable()
    assert footprint() == before
    with pytest.raises(ValueError, match="apollo_mini"):
        OptimizerNames("apollo_mini")


def test_enable_and_disable_are_idempotent() -> None:
    before = footprint()
    anyoptim.disable()
    assert footprint() == before
    anyoptim.enable()
    once = footprint()
    anyoptim.enable()
    assert footprint() == once
    anyoptim.disable()
    anyoptim.disable()
    assert footprint() == before


def test_the_context_manager_ends_only_what_it_began() -> None:
    before = footprint()
    with anyoptim.enable():
        with anyoptim.enable():
            pass
        assert OptimizerNames("apollo_mini") == "apollo_mini"
    assert footprint() == before


def test_scopes_end_in_any_order() -> None:
    before = footprint()
    first, second = anyoptim.enable(), anyoptim.enable()
    first.__exit__(None, None, None)
    assert OptimizerNames("apollo_mini") == "apollo_mini"
    second.__exit__(None, None, None)
    assert footprint() == before
    with anyoptim.enable():
        anyoptim.disable()  # whoever says so ends all of them
        assert footprint() == before
        with anyoptim.enable():
            pass
        assert footprint() == before
    assert footprint() == before


@pytest.mark.parametrize("how", ["class", "module"])
def test_a_strangers_patch_on_top_of_ours_stays(how: str, tmp_path: Path) -> None:
    """It calls what it has replaced, which is ours no longer once disable() was called."""
    calls: list[str] = []
    owner: Any = Trainer if how == "class" else transformers.trainer
    name = "training_step" if how == "class" else "load_fsdp_optimizer"
    original = getattr(owner, name)
    anyoptim.enable()
    ours = getattr(owner, name)

    def strangers(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return ours(*args, **kwargs)

    try:
        setattr(owner, name, strangers)
        anyoptim.disable()
        assert getattr(owner, name) is strangers
        if how == "class":
            train(llama(), arguments(tmp_path, max_steps=2))
            assert calls == [name] * 2
        with anyoptim.enable():  # ours go on top of it
            train(llama(), arguments(tmp_path, optim="sam(sgd)", max_steps=1))
        assert getattr(owner, name) is strangers
    finally:
        setattr(owner, name, original)
    with pytest.raises(ValueError, match="not a valid"):
        arguments(tmp_path, optim="apollo_mini")


def test_a_strangers_spelling_of_names_stays_too() -> None:
    anyoptim.enable()
    ours = OptimizerNames._missing_
    stranger = classmethod(lambda cls, value: cls.SGD if value == "plain" else ours(value))
    try:
        type.__setattr__(OptimizerNames, "_missing_", stranger)
        assert OptimizerNames("Apollo-Mini") == "apollo_mini"
        anyoptim.disable()
        assert OptimizerNames("plain") is OptimizerNames.SGD
        with pytest.raises(ValueError, match="not a valid"):
            OptimizerNames("apollo_mini")
    finally:
        type.__delattr__(OptimizerNames, "_missing_")


def test_threads_enable_and_disable() -> None:
    before = footprint()
    start, failures = threading.Barrier(8), []

    def work() -> None:
        start.wait()
        try:
            for _ in range(20):
                with anyoptim.enable():
                    assert OptimizerNames("apollo_mini") == "apollo_mini"
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failures
    assert footprint() == before


def test_a_failing_enable_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = footprint()
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "accelerate", None)
        with pytest.raises(anyoptim.MissingPackageError, match=r"pip install 'anyoptim\[transformers\]'"):
            anyoptim.enable()
    assert footprint() == before
    with anyoptim.enable():
        assert OptimizerNames("apollo_mini") == "apollo_mini"


@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("fails", [False, True])
def test_a_trainer_is_left_as_it_was(fails: bool, tmp_path: Path) -> None:
    """What is wrapped for the time of a training is wrapped on the trainer itself."""

    class Failing(Trainer):
        def training_step(self, *args: object, **kwargs: object) -> torch.Tensor:
            raise RuntimeError("no step")

    trainer = (Failing if fails else Trainer)(llama(), arguments(tmp_path, max_steps=1), train_dataset=data())
    before, callbacks = set(vars(trainer)), list(trainer.callback_handler.callbacks)
    with pytest.raises(RuntimeError, match="no step") if fails else contextlib.nullcontext():
        trainer.train()
    assert not {"save_model", "_save_checkpoint", "_load_best_model"} & set(vars(trainer))
    assert before <= set(vars(trainer))
    assert "on_save" not in vars(trainer.callback_handler)
    assert trainer.callback_handler.callbacks == callbacks


@pytest.mark.usefixtures("enabled")
def test_members_are_real_ones() -> None:
    member = OptimizerNames("apollo_mini")
    assert isinstance(member, OptimizerNames)
    assert isinstance(member, str)
    assert member is OptimizerNames["APOLLO_MINI"]
    assert member in list(OptimizerNames)
    assert member.value == "apollo_mini"
    assert member.name == "APOLLO_MINI"
    assert json.dumps(member) == '"apollo_mini"'
    assert "apollo_mini" in [each.value for each in OptimizerNames]


@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize("spelling", ["Schedule-Free-RAdamW", "schedule-free-radamw", " SCHEDULE_FREE_RADAMW "])
def test_other_spellings_in_training_arguments(spelling: str, tmp_path: Path) -> None:
    assert arguments(tmp_path, optim=spelling).optim == "schedule_free_radamw"


@pytest.mark.usefixtures("enabled")
def test_transformers_own_names_stay_its_own(tmp_path: Path) -> None:
    """As of a newer transformers than the catalogue knows."""
    with ExitStack() as undo:
        undo.callback(_remove_member, OptimizerNames, _add_member(OptimizerNames, "adamw_of_tomorrow"))
        args = arguments(tmp_path, optim="AdamW-of-tomorrow")
        assert args.optim is OptimizerNames.ADAMW_OF_TOMORROW
        assert not lookup.is_known("adamw_of_tomorrow")


@pytest.mark.usefixtures("enabled")
def test_an_unknown_name_gets_the_closest(tmp_path: Path) -> None:
    with pytest.raises(anyoptim.UnknownOptimizerError, match="Did you mean 'apollo_adamw'"):
        arguments(tmp_path, optim="apolo_adamw")


@pytest.mark.usefixtures("enabled")
def test_a_class_path_trains(tmp_path: Path) -> None:
    args = arguments(tmp_path, optim="torch.optim:NAdam", optim_args="momentum_decay=0.01", learning_rate=1e-3)
    trainer = train(llama(), TrainingArguments(**args.to_dict()))
    assert type(inner(trainer.optimizer)) is torch.optim.NAdam
    assert {group["momentum_decay"] for group in trainer.optimizer.param_groups} == {0.01}


def test_the_defaults_we_compare_with_are_those_of_training_arguments(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    assert {field: getattr(args, field) for field in CHANGEABLE_DEFAULTS} == CHANGEABLE_DEFAULTS
    assert all(hasattr(args, field) for field in TRAINING_ARGUMENTS_FIELDS)


@pytest.mark.usefixtures("enabled", "restored_registry")
def test_a_name_registered_after_enable_counts_too(tmp_path: Path) -> None:
    @anyoptim.register("my_sgd")
    class MySGD(torch.optim.SGD):
        def __init__(self, params: object, lr: float = 0.1, momentum: float = 0.5) -> None:
            super().__init__(params, lr=lr, momentum=momentum)

    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--optim", "my_sgd", "--use_cpu", "true"]
    )
    optimizer = Trainer(llama(), args, train_dataset=data()).create_optimizer()
    assert type(optimizer) is MySGD


@pytest.mark.usefixtures("enabled")
def test_training_args_bin_loads_where_anyoptim_is_not(tmp_path: Path) -> None:
    args = arguments(tmp_path, optim="apollo_mini", optim_target_modules="all-linear")
    trainer = train(llama(), args)
    trainer.save_model(str(tmp_path / "saved"))
    assert in_new_process(loads_without_anyoptim, tmp_path / "saved" / "training_args.bin") == 0


def loads_without_anyoptim(file: Path) -> None:
    for module in [each for each in sys.modules if each.partition(".")[0] == "anyoptim"]:
        sys.modules[module] = None  # type: ignore[assignment]  # as where it is not installed
    args = torch.load(file, weights_only=False)
    assert type(args.optim) is str and args.optim == "apollo_mini", repr(args.optim)


@pytest.mark.usefixtures("enabled")
def test_arguments_survive_pickle_and_copy(tmp_path: Path) -> None:
    args = arguments(tmp_path, optim="apollo_mini", optim_target_modules="all-linear")
    assert pickle.loads(pickle.dumps(args)).optim == "apollo_mini"
    assert copy.deepcopy(args).optim == "apollo_mini"
    own = pickle.loads(pickle.dumps(arguments(tmp_path, optim="adamw_torch")))
    assert own.optim is OptimizerNames.ADAMW_TORCH


@pytest.mark.usefixtures("enabled")
def test_a_plain_backward_of_accelerate_is_untouched() -> None:
    model = llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    batch = data()[0]["input_ids"].unsqueeze(0)
    accelerator.backward(model(input_ids=batch, labels=batch).loss)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_without_enable_transformers_still_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a valid OptimizerNames"):
        TrainingArguments(output_dir=str(tmp_path), optim="schedule_free_radamw")


@pytest.mark.usefixtures("enabled")
@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"optim": "adamw_torch", "optim_args": "esp=1e-6"}, anyoptim.OptimArgsError, "Did you mean 'eps'"),
        ({"optim": "apollo_adamw"}, anyoptim.TargetModulesError, "needs optim_target_modules"),
        ({"optim": "lomo", "fp16": True}, anyoptim.UnsupportedError, "bf16"),
    ],
)
def test_a_refused_trainer_leaves_the_model_alone(
    fields: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    model = llama()
    defaults = needs_of("adamw_torch")
    args = arguments(tmp_path, **{**defaults, **{key: value for key, value in fields.items() if key != "fp16"}})
    args.fp16 = bool(fields.get("fp16"))
    trainer = Trainer(model, arguments(tmp_path), train_dataset=data())
    trainer.args = args
    with pytest.raises(error, match=message):
        trainer.create_optimizer()
    assert trainer.optimizer is None
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())
