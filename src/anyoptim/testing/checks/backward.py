"""Updates inside the backward pass."""

from __future__ import annotations

import torch

from anyoptim.errors import UnsupportedError
from anyoptim.testing.checks.verdicts import NotApplicable, expect
from anyoptim.testing.subject import Subject, weights


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
    expect(not different, f"{len(different)} weights differ after 4 steps")
    return "bit-equal after 4 steps"


def reentrant_checkpointing(subject: Subject) -> str:
    """Where a module is used twice under reentrant checkpointing, there is one update a step, or it is refused."""
    if not any(each.name == "fused_backward" for each in subject.spec.hyperparameters):
        raise NotApplicable("it updates in step()")
    results = []
    for fused in ("false", "true"):
        model = subject.model()
        model.gradient_checkpointing_enable({"use_reentrant": True})
        model.enable_input_require_grads()
        model.model.layers.append(model.model.layers[0])
        model.config.num_hidden_layers = 2
        own = subject.arguments["optim_args"]
        optimizer = subject.build(model, optim_args=",".join(filter(None, [own, f"fused_backward={fused}"])))
        model.train()
        try:
            for seed in range(2):
                subject.step(model, optimizer, seed)
        except UnsupportedError as error:
            return f"refused: {error}"
        results.append(weights(model))
    different = [name for name in results[0] if not torch.equal(results[0][name], results[1][name])]
    expect(not different, f"{len(different)} weights differ after 2 steps")
    return "bit-equal after 2 steps"
