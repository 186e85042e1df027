"""The checks of the conformance kit: each takes a subject and returns its evidence in a few words, or raises."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyoptim.errors import OptimArgsError
from anyoptim.memory.state import measured_state_bytes
from anyoptim.names.hyperparameters import ITS_OWN, REQUIRED
from anyoptim.testing.sharded import train_sharded
from anyoptim.testing.subject import SAVED_AT, STEPS, Subject, batch, moved, tensors, weights
from anyoptim.text import format_bytes


class NotApplicable(Exception):  # no error: there is nothing to check
    """There is nothing to check, for the reason given."""


class Failure(AssertionError):
    """A promise is not kept, as the message says."""


def builds(subject: Subject) -> str:
    """Is built, as a ``torch.optim.Optimizer`` that holds each parameter once."""
    model = subject.model()
    optimizer = subject.build(model)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    _expect(isinstance(optimizer, torch.optim.Optimizer), f"{type(optimizer).__name__} is no torch.optim.Optimizer")
    _expect(len(held) == len(set(held)), "a parameter is in two groups")
    _expect(set(held) == set(model.parameters()), "not every parameter is in a group")
    return f"{len(optimizer.param_groups)} groups"


def trains(subject: Subject) -> str:
    """Trains through the real Trainer: the loss falls, at the constructor's own rate or at a usual one."""
    tried = []
    low, high = subject.spec.usual_lr or (subject.rate, subject.rate)
    for rate in dict.fromkeys((subject.rate, high, math.sqrt(low * high), low)):
        if rate == subject.rate:
            losses = _run(subject).losses
        else:
            with tempfile.TemporaryDirectory() as folder:
                losses = logged_losses(subject.train(Path(folder), learning_rate=rate, max_steps=3 * STEPS))
        first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
        tried.append(f"loss {first:.3f} to {last:.3f} in {len(losses)} steps at lr={rate:g}")
        if last < first:
            return tried[-1]
    raise Failure("; ".join(tried))


def resumes(subject: Subject) -> str:
    """Resumed half-way, ends with the very weights of the run that never stopped."""
    run = _run(subject)
    resumed = subject.train(run.folder, resume=True, seed=1, save_strategy="steps", save_steps=SAVED_AT)
    different = moved(run.weights, resumed.model)
    if different:
        largest = max(
            float((run.weights[name] - value).abs().max()) for name, value in resumed.model.state_dict().items()
        )
        raise Failure(f"{len(different)} weights differ, by {largest:.1e} at most")
    return f"bit-equal after {STEPS - SAVED_AT} further steps"


def loads_weights_only(subject: Subject) -> str:
    """Its checkpoint is tensors and plain values."""
    state = torch.load(_run(subject).folder / f"checkpoint-{SAVED_AT}" / "optimizer.pt", weights_only=True)
    strange = sorted(_kinds(state) - _PLAIN)
    _expect(not strange, f"holds {', '.join(strange)}")
    return "tensors and plain values"


def has_its_traits(subject: Subject) -> str:
    """What its spec says of its step is true: closure, second order, modes, what becomes of the gradients."""
    model, traits = subject.model(), subject.spec.traits
    optimizer = subject.build(model)
    has_modes = callable(getattr(optimizer, "eval", None))
    _expect(has_modes or not traits.schedule_free or traits.needs_closure, "it has no eval()")
    tokens = batch(0).to(subject.device)
    model(input_ids=tokens, labels=tokens).loss.backward()
    try:
        optimizer.step()
        alone = True
    except Exception:  # what is missing shows in many ways
        alone = False
    needs_more = traits.needs_closure or traits.second_order
    _expect(alone != needs_more, f"step() {'works' if alone else 'fails'} without a closure and a graph")
    left = any(parameter.grad is not None for parameter in model.parameters())
    consumed = alone and not left
    expected = traits.consumes_gradients or bool(subject.spec.fused_backward)
    _expect(not alone or consumed == expected, f"gradients are {'gone' if consumed else 'still there'} after a step")
    return "as its spec says"


def typed_arguments(subject: Subject) -> str:
    """Every hyperparameter can be written as text, and a wrong key is refused."""
    model = subject.model()
    written = {}
    for each in subject.spec.hyperparameters:
        if each.default in (ITS_OWN, REQUIRED) or each.scope == "groups" or each.taken_from:
            continue
        if isinstance(each.default, (bool, int, float, str, tuple, list)) or each.default is None:
            written[each.name] = each.default
    text = ",".join([*subject.required, *(f"{key}={_text(value)}" for key, value in written.items())])
    planned = subject.plan(model, optim_args=text)
    for key, value in written.items():
        got = planned.hyperparameters[key].value
        _expect(got == value and isinstance(got, bool) == isinstance(value, bool), f"{key}={value} arrives as {got!r}")
    planned.build()
    try:
        subject.plan(model, optim_args="no_such_key=1")
    except OptimArgsError:
        return f"{len(written)} hyperparameters as text"
    raise Failure("an unknown key is accepted")


def decay_groups(subject: Subject) -> str:
    """weight_decay reaches the matrices and spares the norms."""
    if not any(each.name == "weight_decay" for each in subject.spec.hyperparameters):
        raise NotApplicable("it has no weight decay")
    model = subject.model()
    optimizer = subject.build(model, weight_decay=0.1)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decays = {names[each]: group.get("weight_decay") for group in optimizer.param_groups for each in group["params"]}
    wrong = [name for name, decay in decays.items() if decay != (0.0 if "norm" in name else 0.1)]
    _expect(not wrong, f"{wrong[0] if wrong else ''} has weight decay {decays[wrong[0]] if wrong else ''}")
    return "0.1 on matrices, 0 on norms"


def follows_the_schedule(subject: Subject) -> str:
    """A scheduler's rate is the one that is applied: at rate 0 nothing moves."""
    if subject.spec.traits.schedule_free:
        raise NotApplicable("it needs no schedule")
    model = subject.model()
    optimizer = subject.build(model, weight_decay=0.0)
    factor = [1.0]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: factor[0])
    subject.step(model, optimizer, 0)
    scheduler.step()
    subject.step(model, optimizer, 1)
    factor[0] = 0.0
    scheduler.step()
    before = weights(model)
    subject.step(model, optimizer, 2)
    largest = max(float((before[name] - value).abs().max()) for name, value in model.state_dict().items())
    # adding and subtracting the same, as some do, may round
    _expect(largest < 1e-5, f"at rate 0 weights still move, by {largest:.1e}")
    return "at rate 0 nothing moves"


def skips_missing_gradients(subject: Subject) -> str:
    """A parameter without a gradient stays, and the others move."""
    model = subject.model()
    model.unused = torch.nn.Linear(32, 32, bias=False).to(subject.device)
    optimizer = subject.build(model)
    before = weights(model)
    for seed in range(_ENOUGH):
        subject.step(model, optimizer, seed)
    changed = moved(before, model)
    _expect("unused.weight" not in changed, "a parameter without a gradient moves")
    _expect(len(changed) > 1, "nothing moves")
    return f"{len(changed)} of {len(before)} move"


def bf16_parameters(subject: Subject) -> str:
    """Steps parameters in bfloat16."""
    return _in_dtype(subject, torch.bfloat16)


def fp16_parameters(subject: Subject) -> str:
    """Steps parameters in float16."""
    return _in_dtype(subject, torch.float16)


def state_on_device(subject: Subject) -> str:
    """State of a parameter's size is where the parameter is."""
    model = subject.model()
    optimizer = subject.build(model)
    subject.step(model, optimizer, 0)
    for parameter, state in optimizer.state.items():
        wrong = [each for each in tensors(state) if each.numel() > 1 and each.device.type != parameter.device.type]
        _expect(not wrong, f"state of shape {tuple(wrong[0].shape) if wrong else ()} is elsewhere")
    return f"on {torch.device(subject.device).type}"


def fused_backward(subject: Subject) -> str:
    """Updating inside the backward pass gives the same weights."""
    implementation = subject.spec.default
    if "fused_backward" in implementation.unsupported:
        raise NotApplicable(implementation.unsupported["fused_backward"])
    if not any(each.name == "fused_backward" for each in implementation.hyperparameters):
        raise NotApplicable("it has hooks of its own" if implementation.updates_in_backward else "it is not offered")
    results = []
    for fused in ("false", "true"):
        model = subject.model()
        own = subject.arguments["optim_args"]
        optimizer = subject.build(model, optim_args=",".join(filter(None, [own, f"fused_backward={fused}"])))
        for seed in range(4):
            subject.step(model, optimizer, seed)
        results.append(weights(model))
    different = [name for name in results[0] if not torch.equal(results[0][name], results[1][name])]
    _expect(not different, f"{len(different)} weights differ after 4 steps")
    return "bit-equal after 4 steps"


def accumulates_gradients(subject: Subject) -> str:
    """With gradient accumulation in the Trainer, weights move once for two micro-batches."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        moved: bool = False

        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self.before = weights(model)

        def on_substep_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self.moved |= bool(moved(self.before, model))

    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = subject.train(
            Path(folder),
            callbacks=[watch],
            gradient_accumulation_steps=2,
            per_device_train_batch_size=4,
            max_steps=_ENOUGH,
        )
    _expect(not watch.moved, "weights move in the middle of a step")
    _expect(bool(moved(weights(subject.model()), trainer.model)), "nothing moves")
    return "one update for two micro-batches"


def compiles(subject: Subject) -> str:
    """Its step under torch.compile gives the weights of the plain step."""
    if subject.spec.traits.needs_closure or subject.spec.traits.second_order:
        raise NotApplicable("its step runs the model")
    results = []
    for compiled in (False, True):
        model = subject.model()
        optimizer = subject.build(model)
        if compiled:
            torch.compiler.reset()
            # the tracing, not the code generator, is what an optimizer can fail
            compiled_step: Any = torch.compile(optimizer.step, backend="eager")
            optimizer.step = compiled_step  # type: ignore[method-assign]  # of this object only
        for seed in range(2):
            subject.step(model, optimizer, seed)
        results.append(weights(model))
    largest = max(float((results[0][name] - results[1][name]).abs().max()) for name in results[0])
    # compiled, step counts are tensors, so that bias corrections round otherwise
    _expect(largest <= 2e-5, f"weights differ by {largest:.1e}")
    return f"weights within {largest:.0e}" if largest else "bit-equal"


def predicts_memory(subject: Subject) -> str:
    """The plan's state bytes are those that are there after a step."""
    model = subject.model()
    memory = subject.plan(model).memory
    optimizer = subject.build(model)
    subject.step(model, optimizer, 0)
    measured = measured_state_bytes(optimizer)
    _expect(memory.total is not None, memory.method)
    _expect(memory.total == measured, f"predicted {memory.total}, measured {measured}")
    return f"{format_bytes(measured)}, by {memory.method}"


def shards(subject: Subject) -> str:
    """Sharded over two processes by FSDP2, it trains as in one process."""
    ((_, (kept, evidence)),) = train_sharded([subject])
    _expect(kept, evidence)
    return evidence


CHECKS: dict[str, Callable[[Subject], str]] = {
    "builds": builds,
    "trains": trains,
    "resume": resumes,
    "weights_only": loads_weights_only,
    "traits": has_its_traits,
    "typed arguments": typed_arguments,
    "decay groups": decay_groups,
    "schedule": follows_the_schedule,
    "None gradients": skips_missing_gradients,
    "bf16": bf16_parameters,
    "fp16": fp16_parameters,
    "device": state_on_device,
    "fused backward": fused_backward,
    "accumulation": accumulates_gradients,
    "DTensor": shards,
    "torch.compile": compiles,
    "memory": predicts_memory,
}
"""By the names under which a spec states limits."""


# ---------------------------------------------------------------- what they share

_ENOUGH = 12
"""Steps after which weights have moved: RAdam and AdaShift leave them alone at first."""
_PLAIN = {"Tensor", "tuple", "int", "float", "str", "bool", "NoneType", "dtype"}


class _Run:
    """A run of the Trainer with a checkpoint half-way: of one subject, for the checks that look at it."""

    def __init__(self, subject: Subject) -> None:
        self._holder = tempfile.TemporaryDirectory()
        self.folder = Path(self._holder.name)
        trainer = subject.train(self.folder, save_strategy="steps", save_steps=SAVED_AT)
        self.losses = logged_losses(trainer)
        self.weights = weights(trainer.model)
        # resuming goes on from half-way
        for each in self.folder.glob(f"checkpoint-{STEPS}/*"):
            each.unlink()
        (self.folder / f"checkpoint-{STEPS}").rmdir()


def logged_losses(trainer: Any) -> list[float]:
    """Return the loss of each step that a Trainer logged."""
    return [float(row["loss"]) for row in trainer.state.log_history if "loss" in row]


def _run(subject: Subject) -> _Run:
    run = subject.kept.get("run")
    if not isinstance(run, _Run):
        run = subject.kept["run"] = _Run(subject)
    return run


def _expect(kept: bool, otherwise: str) -> None:
    if not kept:
        raise Failure(otherwise)


def _text(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"({','.join(_text(each) for each in value)})"
    return repr(value) if isinstance(value, str) else str(value).lower()


def _in_dtype(subject: Subject, dtype: torch.dtype) -> str:
    model = subject.model(dtype=dtype)
    optimizer = subject.build(model)
    before = weights(model)
    losses = [subject.step(model, optimizer, seed) for seed in range(_ENOUGH)]
    _expect(bool(moved(before, model)), "nothing moves")
    kept = all(parameter.dtype is dtype for parameter in model.parameters())
    _expect(kept, "parameters change their dtype")
    finite = all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    _expect(finite, f"weights are not finite after {_ENOUGH} steps")
    return f"loss {losses[0]:.3f} to {losses[-1]:.3f}"


def _kinds(value: object) -> set[str]:
    """Return the names of the types of all leaves; a tensor subclass is a tensor, but none may be a key."""
    if isinstance(value, dict):
        keys = {f"{type(key).__name__} as key" if isinstance(key, Tensor) else type(key).__name__ for key in value}
        return keys.union(*(_kinds(each) for each in value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return set[str]().union(*(_kinds(each) for each in value))
    return {"Tensor" if isinstance(value, Tensor) else type(value).__name__}
