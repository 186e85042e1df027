"""What is held between steps: masters behind weights in 16 bits, and packed state."""

from __future__ import annotations

import copy
import io
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from anyoptim.building.wide_weights import fp32_weights
from anyoptim.memory.state import measured_state_bytes
from anyoptim.testing.checks.verdicts import NotApplicable, expect
from anyoptim.testing.subject import Subject, moved, weights

_STEPS = 200
_PACKED = "master_weights=24bit,state_dtype=int8"


def keeps_masters(subject: Subject) -> str:
    """With ``master_weights=32bit`` weights in bf16 end as an fp32 copy does on the same gradients, bit for bit."""
    _offered(subject)
    found = []
    for dtype, args in ((torch.float32, ""), (torch.bfloat16, "master_weights=32bit")):
        torch.manual_seed(0)  # some draw random numbers
        model = subject.model(dtype=torch.bfloat16).to(dtype)
        optimizer = subject.build(model, optim_args=_with(subject, args))
        for step in range(_STEPS):
            for number, parameter in enumerate(model.parameters()):
                parameter.grad = _gradient(parameter, 1000 * step + number)
            optimizer.step()
            optimizer.zero_grad()
        found.append(fp32_weights(model, optimizer))
    different = [name for name, value in found[0].items() if not _same(value, found[1][name])]
    expect(not different, f"{len(different)} weights differ after {_STEPS} steps, {different[0] if different else ''}")
    return f"bit-equal after {_STEPS} steps"


def packs_state(subject: Subject) -> str:
    """With 24 bits and int8 it steps in bf16 and fp16, holds the bytes that the plan says, and resumes bit-equal."""
    _offered(subject)
    held = 0
    fields: dict[str, Any]
    # some rates take weights beyond what fp16 holds
    for dtype, rate in ((torch.bfloat16, subject.rate), (torch.float16, subject.rate / 100)):
        fields = {"optim_args": _with(subject, _PACKED), "learning_rate": rate}
        model = subject.model(dtype=dtype)
        before = weights(model)
        planned = subject.plan(model, **fields)
        optimizer = subject.build(model, **fields)
        for seed in range(3):
            subject.step(model, optimizer, seed)
        held = measured_state_bytes(optimizer)
        predicted = planned.memory.total
        varies = "memory" in subject.spec.default.may_fail  # as that check says
        expect(predicted == held or varies, f"predicted {predicted}, measured {held} bytes in {dtype}")
        resumed = copy.deepcopy(model)
        loaded = subject.build(resumed, **fields)
        loaded.load_state_dict(_saved(optimizer))
        for one, other in ((model, optimizer), (resumed, loaded)):
            torch.manual_seed(0)
            for seed in range(3, 12):
                subject.step(one, other, seed)
        different = moved(weights(model), resumed)
        expect(not different, f"resumed, {len(different)} weights differ in {dtype}")
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
        expect(finite, f"weights are not finite in {dtype}")
        expect(bool(moved(before, model)) or rate != subject.rate, "nothing moves")
    elements = sum(each.numel() for each in model.parameters())
    return f"{held / elements:.3g} bytes of state a parameter, bit-equal when resumed"


def _offered(subject: Subject) -> None:
    implementation = subject.spec.default
    if not any(each.name == "master_weights" for each in implementation.hyperparameters):
        raise NotApplicable(implementation.unsupported.get("master_weights", "it is not offered"))


def _with(subject: Subject, args: str) -> str:
    return ",".join(filter(None, [subject.arguments["optim_args"], args]))


def _saved(optimizer: Optimizer) -> dict[str, object]:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded: dict[str, object] = torch.load(file, weights_only=False)  # of our own making
    return loaded


def _gradient(parameter: Tensor, seed: int) -> Tensor:
    """Return a gradient that bf16 holds, the same for both dtypes."""
    drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)
    return drawn.mul_(0.1).to(parameter)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)
