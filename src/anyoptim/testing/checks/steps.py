"""Single steps: traits, missing gradients, dtypes, torch.compile, scaled losses."""

from __future__ import annotations

from typing import Any

import torch
import torch._dynamo
from torch._dynamo.testing import CompileCounter

from anyoptim.testing.checks.verdicts import ENOUGH, NotApplicable, expect
from anyoptim.testing.subject import Subject, batch, moved, weights


def has_its_traits(subject: Subject) -> str:
    """What its spec says of its step is true: closure, second order, modes, what becomes of the gradients."""
    model, traits = subject.model(), subject.spec.traits
    optimizer = subject.build(model)
    has_modes = callable(getattr(optimizer, "eval", None))
    expect(has_modes or not traits.schedule_free or traits.needs_closure, "it has no eval()")
    tokens = batch(0).to(subject.device)
    model(input_ids=tokens, labels=tokens).loss.backward()
    try:
        optimizer.step()
        alone = True
    except Exception:  # what is missing shows in many ways
        alone = False
    needs_more = traits.needs_closure or traits.second_order
    expect(alone != needs_more, f"step() {'works' if alone else 'fails'} without a closure and a graph")
    left = any(parameter.grad is not None for parameter in model.parameters())
    consumed = alone and not left
    expected = traits.consumes_gradients or bool(subject.spec.fused_backward)
    expect(not alone or consumed == expected, f"gradients are {'gone' if consumed else 'still there'} after a step")
    return "as its spec says"


def skips_missing_gradients(subject: Subject) -> str:
    """A parameter without a gradient stays, and the others move."""
    model = subject.model()
    model.unused = torch.nn.Linear(32, 32, bias=False).to(subject.device)
    optimizer = subject.build(model)
    before = weights(model)
    for seed in range(ENOUGH):
        subject.step(model, optimizer, seed)
    changed = moved(before, model)
    expect("unused.weight" not in changed, "a parameter without a gradient moves")
    expect(len(changed) > 1, "nothing moves")
    return f"{len(changed)} of {len(before)} move"


def bf16_parameters(subject: Subject) -> str:
    """Steps parameters in bfloat16."""
    return _in_dtype(subject, torch.bfloat16)


def fp16_parameters(subject: Subject) -> str:
    """Steps parameters in float16."""
    return _in_dtype(subject, torch.float16)


def compiles(subject: Subject) -> str:
    """Its step under torch.compile gives the weights of the plain step; of ours, no graph is made after the warm-up.

    A package's own is compiled for two steps only: many are compiled anew with every step count, for seconds.
    """
    if subject.spec.traits.needs_closure or subject.spec.traits.second_order:
        raise NotApplicable("its step runs the model")
    ours = subject.spec.package == "anyoptim"
    results = []
    graphs: list[int] = []
    for compiled in (False, True):
        model = subject.model()
        optimizer = subject.build(model)
        counter = CompileCounter()
        if compiled:
            torch.compiler.reset()
            # the tracing, not the code generator, is what an optimizer can fail
            compiled_step: Any = torch.compile(optimizer.step, backend=counter)
            optimizer.step = compiled_step  # type: ignore[method-assign]  # of this object only
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=ours):
            for seed in range(_COMPILED if ours and compiled else 2):
                try:
                    subject.step(model, optimizer, seed)
                except AssertionError as error:  # torch 2.11's own, of a package's class
                    if ours or "AttributeMutation" not in str(error):
                        raise
                    raise NotApplicable(f"torch {torch.__version__} compiles no step that sets attributes") from error
                graphs.append(counter.frame_count)
                if seed == 1:
                    results.append(weights(model))
    largest = max(float((results[0][name] - results[1][name]).abs().max()) for name in results[0])
    # compiled, step counts are tensors, so that bias corrections round otherwise
    expect(largest <= 2e-5, f"weights differ by {largest:.1e}")
    late = graphs[-1] - graphs[-_COMPILED // 2] if ours else 0
    expect(late == 0, f"{late} graphs are made after {_COMPILED // 2} steps")
    return f"weights within {largest:.0e}" if largest else "bit-equal"


_COMPILED = 14
"""Steps of a compiled engine; half of them are its warm-up, with a step of lookahead's slow weights in it."""


def _in_dtype(subject: Subject, dtype: torch.dtype) -> str:
    model = subject.model(dtype=dtype)
    optimizer = subject.build(model)
    before = weights(model)
    losses = [subject.step(model, optimizer, seed) for seed in range(ENOUGH)]
    expect(bool(moved(before, model)), "nothing moves")
    kept = all(parameter.dtype is dtype for parameter in model.parameters())
    expect(kept, "parameters change their dtype")
    finite = all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    expect(finite, f"weights are not finite after {ENOUGH} steps")
    return f"loss {losses[0]:.3f} to {losses[-1]:.3f}"


def scaled_loss(subject: Subject) -> str:
    """Under a ``GradScaler`` gradients are unscaled before a step, and a step that overflows is left out."""
    if subject.spec.traits.needs_closure or subject.spec.traits.second_order:
        raise NotApplicable("its step runs the model")
    if subject.spec.fused_backward or subject.spec.default.updates_in_backward:
        raise NotApplicable("it uses gradients before a scaler could unscale them")
    results = []
    for scale in (None, 2.0**10):
        torch.manual_seed(0)  # some draw random numbers
        model = subject.model()
        optimizer = subject.build(model)
        scaler = torch.amp.GradScaler(subject.device, init_scale=scale or 1.0, enabled=scale is not None)
        for seed in range(3):
            tokens = batch(seed).to(subject.device)
            scaler.scale(model(input_ids=tokens, labels=tokens).loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        results.append(weights(model))
    largest = max(float((results[0][name] - results[1][name]).abs().max()) for name in results[0])
    expect(largest <= 1e-5, f"with a scaled loss weights differ by {largest:.1e}")
    tokens = batch(3).to(subject.device)
    scaler.scale(model(input_ids=tokens, labels=tokens).loss).backward()
    model.lm_head.weight.grad[0, 0] = torch.inf
    scaler.step(optimizer)
    expect(not moved(results[1], model), "a step that overflows moves weights")
    return f"weights within {largest:.0e}" if largest else "bit-equal"
