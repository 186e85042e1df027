"""What the groups hold: every parameter once, typed arguments, weight decay, rates."""

from __future__ import annotations

import torch

from anyoptim.errors import OptimArgsError, OptimError
from anyoptim.names.hyperparameters import ITS_OWN, REQUIRED
from anyoptim.testing.checks.verdicts import ENOUGH, Failure, NotApplicable, expect
from anyoptim.testing.subject import Subject, weights


def builds(subject: Subject) -> str:
    """Is built, as a ``torch.optim.Optimizer`` that holds each parameter once."""
    model = subject.model()
    optimizer = subject.build(model)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    expect(isinstance(optimizer, torch.optim.Optimizer), f"{type(optimizer).__name__} is no torch.optim.Optimizer")
    expect(len(held) == len(set(held)), "a parameter is in two groups")
    expect(set(held) == set(model.parameters()), "not every parameter is in a group")
    return f"{len(optimizer.param_groups)} groups"


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
        expect(got == value and isinstance(got, bool) == isinstance(value, bool), f"{key}={value} arrives as {got!r}")
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
    expect(not wrong, f"{wrong[0] if wrong else ''} has weight decay {decays[wrong[0]] if wrong else ''}")
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
    expect(largest < 1e-5, f"at rate 0 weights still move, by {largest:.1e}")
    return "at rate 0 nothing moves"


def _text(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"({','.join(_text(each) for each in value)})"
    return repr(value) if isinstance(value, str) else str(value).lower()


def rate_of_a_group(subject: Subject) -> str:
    """The learning rate of a group, not of the first one only, is what its parameters step with; or it is refused."""
    steps, name = [], "down_proj"
    for ratio in (1.0, 0.1):
        model = subject.model()
        own = subject.arguments["optim_args"]
        override = f"{name}@lr_ratio={ratio}"
        try:
            optimizer = subject.build(model, optim_args=",".join(filter(None, [own, override])), weight_decay=0.0)
        except OptimError as error:
            return f"refused: {error}"
        before = weights(model)
        for seed in range(ENOUGH):
            subject.step(model, optimizer, seed)
        steps.append(
            max(float((before[key] - value).norm()) for key, value in model.state_dict().items() if name in key)
        )
    expect(steps[1] < 0.9 * steps[0], f"at a tenth of the rate the group goes {steps[1]:.1e} instead of {steps[0]:.1e}")
    return f"a tenth of the rate goes {steps[1] / steps[0]:.0%} as far"


def added_group(subject: Subject) -> str:
    """A group that is added after a step trains with the others."""
    if not subject.spec.default.takes_groups:
        raise NotApplicable("it has no param groups")
    model = subject.model()
    optimizer = subject.build(model)
    subject.step(model, optimizer, 0)
    model.added = torch.nn.Linear(32, 32, bias=False).to(subject.device)
    before = model.added.weight.detach().clone()
    with torch.no_grad():
        model.lm_head.register_forward_pre_hook(lambda _, inputs: (inputs[0] + model.added(inputs[0]),))
    optimizer.add_param_group({"params": [model.added.weight]})
    for seed in range(ENOUGH):
        subject.step(model, optimizer, seed)
    expect(not torch.equal(before, model.added.weight), "the added parameter does not move")
    return "it trains"
