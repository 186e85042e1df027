"""The conformance kit: what keeps its promises passes, and each broken promise is found by the check it belongs to."""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import command, new_python

import anyoptim
from anyoptim.names.signatures import spec_of
from anyoptim.names.spec import Implementation, OptimizerSpec
from anyoptim.testing import CHECKS, Verdict, check_optimizer
from anyoptim.testing.kit import judged
from anyoptim.testing.sharded import CHECKS as ON_SEVERAL
from anyoptim.testing.sharded import RESUMES, TRAINS, train_sharded
from anyoptim.testing.subject import Subject

pytestmark = [pytest.mark.usefixtures("restored_registry")]
HERE = [check for check in CHECKS if check not in ON_SEVERAL]


class Good(torch.optim.Optimizer):
    """SGD with momentum, as plain as can be."""

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(group, parameter)
        return loss

    def update(self, group: Any, parameter: Any) -> None:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(group["lr"] * state["momentum"])


class Ascends(Good):
    def update(self, group: Any, parameter: Any) -> None:
        parameter.add_(group["lr"] * parameter.grad)


class Forgets(Good):
    """Keeps its momentum where no state dict finds it."""

    def update(self, group: Any, parameter: Any) -> None:
        held = self.__dict__.setdefault("held", {})
        held[parameter] = held.get(parameter, 0) * group["momentum"] + parameter.grad
        parameter.sub_(group["lr"] * held[parameter])


class Thing:
    pass


class HoldsObjects(Good):
    def update(self, group: Any, parameter: Any) -> None:
        super().update(group, parameter)
        self.state[parameter]["thing"] = Thing()


class IgnoresGroups(Good):
    """Decays everything alike."""

    def __init__(self, params: Any, lr: float = 0.1, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group["weight_decay"] = weight_decay


class IgnoresTheRate(Good):
    def update(self, group: Any, parameter: Any) -> None:
        parameter.sub_(0.1 * parameter.grad)


class DecaysWithoutGradient(Good):
    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(0.999)
        return super().step(closure)


class TurnsToFloat(Good):
    def update(self, group: Any, parameter: Any) -> None:
        parameter.data = parameter.data.float() - group["lr"] * parameter.grad.float()


class Overflows(Good):
    def update(self, group: Any, parameter: Any) -> None:
        parameter.sub_(group["lr"] * parameter.grad / (parameter.grad.abs() + 1e-30).sqrt().square())


class Coupled(Good):
    """Divides by the norm of all gradients, yet says that a parameter can be updated alone."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        every = [each.grad for group in self.param_groups for each in group["params"] if each.grad is not None]
        norm = torch.stack([each.norm() for each in every]).norm()
        for each in every:
            each.div_(norm)
        return super().step(closure)


class GrowsOnRealValues(Good):
    """Keeps as much state as there are positive elements in a gradient."""

    def update(self, group: Any, parameter: Any) -> None:
        super().update(group, parameter)
        self.state[parameter].setdefault("kept", parameter.grad[parameter.grad > 0].clone())


class Elsewhere(Good):
    def update(self, group: Any, parameter: Any) -> None:
        super().update(group, parameter)
        self.state[parameter].setdefault("meta", torch.zeros(parameter.shape, device="meta"))


class CannotBeWritten(Good):
    """Its default is not of the type it says."""

    def __init__(self, params: Any, lr: float = 0.1, mode: int = "fast") -> None:  # type: ignore[assignment]  # the promise that is broken
        super().__init__(params, lr=lr)


class UpdatesTwice(Good):
    """Updates in a hook of its own, on every micro-batch."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.register_post_accumulate_grad_hook(self.hook)

    def hook(self, parameter: Any) -> None:
        parameter.data.sub_(self.param_groups[0]["lr"] * parameter.grad)


class ActsOtherwiseCompiled(Good):
    def update(self, group: Any, parameter: Any) -> None:
        factor = 2.0 if torch.compiler.is_compiling() else 1.0
        parameter.sub_(factor * group["lr"] * parameter.grad)


def register(cls: type[torch.optim.Optimizer], **fields: Any) -> str:
    """Register a class as a plug-in would, with all that is offered to those that step on one parameter alone."""
    from anyoptim.names.hyperparameters import WHERE_AND_WHEN

    spec = spec_of(cls, cls.__name__.lower(), summary="for a test")
    own = replace(spec.default, hyperparameters=(*spec.hyperparameters, *WHERE_AND_WHEN), licence="MIT", **fields)
    anyoptim.register(OptimizerSpec(name=spec.name, summary=spec.summary, implementations=(own,)))
    return spec.name


def test_a_good_one_passes_every_check() -> None:
    report = check_optimizer(register(Good), checks=HERE)
    assert report, str(report)
    assert {each.check: each.status for each in report.verdicts} == dict.fromkeys(HERE, "pass")
    assert all(each.reason for each in report.verdicts)


@pytest.mark.parametrize(
    ("cls", "check", "reason"),
    [
        (Ascends, "trains", "loss 5"),
        (Forgets, "resume", "weights differ"),
        (HoldsObjects, "resume", "does not fit"),
        (HoldsObjects, "weights_only", "Unpickling"),
        (IgnoresGroups, "decay groups", "norm.weight has weight decay 0.1"),
        (IgnoresTheRate, "schedule", "at rate 0 weights still move"),
        (DecaysWithoutGradient, "None gradients", "without a gradient moves"),
        (TurnsToFloat, "bf16", "change their dtype"),
        (Overflows, "fp16", "not finite"),
        (Coupled, "fused backward", "weights differ"),
        (GrowsOnRealValues, "memory", "predicted"),
        (Elsewhere, "device", "is elsewhere"),
        (CannotBeWritten, "typed arguments", "mode must be int"),
        (UpdatesTwice, "accumulation", "in the middle of a step"),
        (ActsOtherwiseCompiled, "torch.compile", "weights differ by"),
    ],
)
def test_a_broken_promise_is_found(cls: type[torch.optim.Optimizer], check: str, reason: str) -> None:
    report = check_optimizer(register(cls), checks=[check])
    assert not report
    (verdict,) = report.verdicts
    assert (verdict.check, verdict.status) == (check, "fail")
    assert reason in verdict.reason


def test_a_class_that_cannot_be_built_fails_every_check() -> None:
    class Raises(Good):
        def __init__(self, params: Any, lr: float = 0.1) -> None:
            raise RuntimeError("no luck")

    report = check_optimizer(register(Raises), checks=["builds", "trains", "memory"])
    assert [each.status for each in report.verdicts] == ["fail"] * 3
    assert all("no luck" in each.reason for each in report.verdicts)


def test_a_limit_that_is_stated_is_no_failure_and_one_that_does_not_show_is() -> None:
    report = check_optimizer(register(Forgets, limits={"resume": "it forgets"}), checks=["resume"])
    assert report
    assert report.verdicts[0].status == "limit"
    assert report.verdicts[0].reason.startswith("it forgets (")
    report = check_optimizer(register(Good, limits={"resume": "it forgets"}), checks=["resume"])
    assert report.verdicts[0].status == "fail"
    assert "the spec says that it fails (it forgets)" in report.verdicts[0].reason


def test_what_cannot_be_checked_says_so() -> None:
    report = check_optimizer("pytorch_optimizer/lomo")
    assert {each.status for each in report.verdicts} == {"limit"}
    report = check_optimizer("grokadamw", checks=["fused backward"])
    assert [each.status for each in report.verdicts] == ["n/a"]


def test_fields_that_it_needs() -> None:
    report = check_optimizer("apollo_adamw", checks=["builds"], optim_args="rank=2,proj=svd")
    assert report


@pytest.mark.slow
def test_two_processes_find_what_one_cannot() -> None:
    """A gradient norm of each process's own part is another one than the whole gradient's."""
    subjects = [Subject(name) for name in ("sgd", "pytorch_optimizer/gravity", "lbfgs")]
    found = {subject.name: finding for subject, finding in train_sharded(subjects)}
    assert all(found["sgd"][check][0] for check in ON_SEVERAL)
    assert set(found["pytorch_optimizer/gravity"]) == {TRAINS}  # the others need it
    assert "weights differ" in found["pytorch_optimizer/gravity"][TRAINS][1]
    assert found["lbfgs"][TRAINS][0]
    assert not found["lbfgs"][RESUMES][0]
    assert "elastic" not in found["lbfgs"]
    assert not check_optimizer("adamw_torch", checks=[TRAINS, RESUMES]).failures


@pytest.mark.parametrize("kills", [1, 2])
def test_a_subject_whose_process_dies_has_a_second_try(kills: int) -> None:
    known = set(multiprocessing.active_children())

    def kill() -> None:
        for _ in range(kills):
            while len(ranks := set(multiprocessing.active_children()) - known) < 4:
                time.sleep(0.1)
            known.update(ranks)
            os.kill(ranks.pop().pid or os.getpid(), signal.SIGSEGV)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.warns(UserWarning, match=r"^sgd: a process died with exit code -11.*; it is tried once more\.$"):
        ((_, found),) = train_sharded([Subject("sgd")])
    if kills == 1:
        assert all(kept for kept, _ in found.values()) and TRAINS in found
    else:
        ((check, (kept, evidence)),) = found.items()
        assert (check, kept) == (TRAINS, False) and evidence.startswith("a process died with exit code -11")


# ---------------------------------------------------------------- the command and the example


@pytest.mark.slow
def test_the_command() -> None:
    done = command("check", "sgd", "--check", "builds", "--check", "memory")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["pass", "pass"]
    done = command("check", "example_sgd", "--check", "trains", "--json")
    assert json.loads(done.stdout)["verdicts"][0]["status"] == "pass"
    done = command("check", "sgd", "--check", "memry")
    assert done.returncode == 1
    assert "Did you mean 'memory'" in done.stderr


def test_the_example_plug_in_is_installed_and_found() -> None:
    assert importlib.metadata.version("anyoptim-example")
    assert {"example_sgd", "example_sign"} == set(anyoptim.list_optimizers(package="anyoptim-example"))
    assert {anyoptim.optimizer_info(name).licence for name in ("example_sgd", "example_sign")} == {"Apache-2.0"}
    assert {"example_sgd", "example_sign"} <= set(anyoptim.list_optimizers())
    program = (
        "import anyoptim, sys\nassert anyoptim.optimizer_info('example_sign').paper\nprint('torch' in sys.modules)\n"
    )
    done = new_python(program)
    assert done.stdout.strip() in ("True", "False")
    assert Path(str(importlib.metadata.distribution("anyoptim-example").locate_file("anyoptim_example"))).exists()


@pytest.mark.parametrize("name", ["example_sgd", "example_sign"])
def test_the_example_plug_in_keeps_its_promises(name: str) -> None:
    report = check_optimizer(name, checks=HERE)
    assert report, str(report)


def test_an_implementation_is_needed_for_a_limit() -> None:
    own = Implementation("upstream", Good, (), "mine", "MIT", limits={"resume": "no", "FSDP2": "no"})
    assert not own.resumable
    assert not own.shards


def test_what_a_last_digit_decides_may_fail_or_not() -> None:
    own = replace(anyoptim.optimizer_info("sgd").default, limits={"bf16": "never"}, unsteady={"fp16": "now and then"})
    statuses = {
        (check, status): judged(Verdict(check, status, "evidence"), own).status
        for check in ("bf16", "fp16", "trains")
        for status in ("pass", "fail", "n/a")
    }
    assert [statuses["bf16", each] for each in ("pass", "fail", "n/a")] == ["fail", "limit", "n/a"]
    assert [statuses["fp16", each] for each in ("pass", "fail", "n/a")] == ["pass", "limit", "n/a"]
    assert [statuses["trains", each] for each in ("pass", "fail", "n/a")] == ["pass", "fail", "n/a"]
