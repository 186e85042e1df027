"""The state: where it is, how large, in copies, through hooks."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from anyoptim.errors import CheckpointError
from anyoptim.memory.state import measured_state_bytes
from anyoptim.testing.checks.verdicts import Failure, NotApplicable, expect
from anyoptim.testing.subject import Subject, moved, tensors, weights
from anyoptim.text import format_bytes


def state_on_device(subject: Subject) -> str:
    """State of a parameter's size is where the parameter is."""
    model = subject.model()
    optimizer = subject.build(model)
    subject.step(model, optimizer, 0)
    for parameter, state in optimizer.state.items():
        wrong = [each for each in tensors(state) if each.numel() > 1 and each.device.type != parameter.device.type]
        expect(not wrong, f"state of shape {tuple(wrong[0].shape) if wrong else ()} is elsewhere")
    return f"on {torch.device(subject.device).type}"


def predicts_memory(subject: Subject) -> str:
    """The plan's state bytes are those that are there after a step."""
    model = subject.model()
    memory = subject.plan(model).memory
    optimizer = subject.build(model)
    subject.step(model, optimizer, 0)
    measured = measured_state_bytes(optimizer)
    expect(memory.total is not None, memory.method)
    expect(memory.total == measured, f"predicted {memory.total}, measured {measured}")
    return f"{format_bytes(measured)}, by {memory.method}"


def copies(subject: Subject) -> str:
    """A deep copy and a pickle, with their model, train on as the original does."""
    model = subject.model()
    optimizer = subject.build(model)
    for seed in range(2):
        subject.step(model, optimizer, seed)
    ways: dict[str, Callable[[Any], Any]] = {
        "a deep copy": copy.deepcopy,
        "a pickle": lambda pair: pickle.loads(pickle.dumps(pair)),  # of our own making
    }
    made = {name: way((model, optimizer)) for name, way in ways.items()}
    generator = torch.get_rng_state()
    subject.step(model, optimizer, 2)
    for name, (its_model, its_optimizer) in made.items():
        torch.set_rng_state(generator)  # some draw random numbers
        subject.step(its_model, its_optimizer, 2)
        different = moved(weights(model), its_model)
        expect(not different, f"of {name} {len(different)} weights differ after a step")
    return "bit-equal after a step"


def load_hooks(subject: Subject) -> str:
    """What hooks make of a state dict is what is loaded."""
    model = subject.model()
    optimizer = subject.build(model)
    subject.step(model, optimizer, 0)
    if not _floats(optimizer):
        raise NotApplicable("it has no state to load")
    loaded = subject.build(model)
    called: list[bool] = []

    def zeroed(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {**state_dict, "state": tree_map(_zeros, state_dict["state"])}

    loaded.register_load_state_dict_pre_hook(zeroed)
    loaded.register_load_state_dict_post_hook(lambda _: called.append(True))
    loaded.load_state_dict(optimizer.state_dict())
    expect(not any(bool(each.any()) for each in _floats(loaded)), "what a hook returned was not loaded")
    expect(called == [True], f"a hook for what comes after ran {len(called)} times")
    return "loaded as hooks return it"


def refuses_other_state(subject: Subject) -> str:
    """State of another shape is refused before a step, which a fused kernel would not survive; its own is not."""
    model = subject.model()
    optimizer = subject.build(model)
    for seed in range(3):
        subject.step(model, optimizer, seed)
    saved = optimizer.state_dict()
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    subject.build(subject.model()).load_state_dict(torch.load(file, weights_only=False))  # of our own making
    first = next((each for each in tensors(saved["state"]) if each.numel() > 1), None)
    if first is None:
        raise NotApplicable("its state has no shapes")
    emptied = tree_map(lambda each: torch.empty(0, dtype=first.dtype) if each is first else each, saved)
    loading = subject.build(subject.model())
    try:
        loading.load_state_dict(emptied)
    except CheckpointError as error:
        expect("does not fit" in str(error), f"it was refused otherwise: {error}")
        return "an emptied tensor is refused by name"
    raise Failure("an emptied tensor was loaded")


def _floats(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [each for each in tensors(dict(optimizer.state)) if _has_values(each)]


def _zeros(value: Any) -> Any:
    return torch.zeros_like(value) if _has_values(value) else value


def _has_values(value: object) -> bool:
    """Whether it is state that can be set to zero; quantized state of a package's own type cannot."""
    return type(value) is Tensor and value.is_floating_point() and value.numel() > 1
