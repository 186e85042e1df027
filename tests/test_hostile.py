"""Input that is wrong on purpose: it is refused in a sentence, soon, and what is built is what was asked for."""

from __future__ import annotations

import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toys import llama

import anyoptim
from anyoptim import OptimArgsError, OptimError, TargetModulesError, UnknownOptimizerError
from anyoptim.arguments.limits import DEEPEST, MOST
from anyoptim.text import LONGEST_TEXT, said, shortened

# ---------------------------------------------------------------- sizes

DEEP: list[Any] = []
for _ in range(5000):
    DEEP = [DEEP]
HUGE = "x" * 10_000_000


@pytest.mark.parametrize("value", [DEEP, HUGE, [HUGE], [0.1] * 1_000_000, {HUGE: 1}, OrderedDict(a=DEEP)],
                         ids=["deep", "long", "in a list", "many", "key", "ordered"])  # fmt: skip
def test_what_is_too_much_is_refused_by_its_key(value: Any) -> None:
    wrong: list[tuple[str, type[OptimError], str, dict[str, Any]]] = [
        ("sgd", OptimArgsError, "lr", {"lr": value}),
        ("sgd", OptimArgsError, "groups", {"groups": value}),
        ("sgd", OptimArgsError, "groups", {"groups": [{"match": value, "lr": 0.1}]}),
        ("sgd", OptimArgsError, "no_decay", {"no_decay": value}),
        ("sgd", OptimArgsError, "implementation", {"implementation": value}),
        ("sgd", OptimArgsError, "optim_args", {"optim_args": value}),
        ("muon", TargetModulesError, "optim_target_modules", {"optim_target_modules": value}),
        (value, UnknownOptimizerError, "", {}),
    ]
    for name, error, key, keywords in wrong:
        began = time.process_time()
        with pytest.raises(error) as caught:
            anyoptim.plan(name, llama(), **keywords)
        assert key in str(caught.value) and len(str(caught.value)) < 700
        assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "text",
    [
        "lr=" + "[" * 5000 + "]" * 5000,
        '{"lr": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"groups": ' + "[" * 50_000,
        "lr=1," * 15_000,
        "no_decay=[" + "a," * 40_000 + "]",
        ",".join(f"a{number}@lr=1" for number in range(2000)),
        json.dumps({"groups": [{"match": f"a{number}", "lr": 1} for number in range(2000)]}),
        "@" * 90_000,
        "lr=" + "9" * LONGEST_TEXT,
    ],
    ids=["brackets", "json", "open", "items", "patterns", "overrides", "entries", "at", "long"],
)
def test_texts_of_optim_args(text: str) -> None:
    began = time.process_time()
    with pytest.raises(OptimArgsError) as caught:
        anyoptim.plan("sgd", llama(), optim_args=text)
    assert len(str(caught.value)) < 700
    assert time.process_time() - began < 2


def test_what_is_large_enough_is_read() -> None:
    nested: Any = 1
    for _ in range(DEEPEST):
        nested = [nested]
    anyoptim.parse_optim_args({"foreach": None, "no_decay": ["a" * 2000] * 9}, "sgd")
    with pytest.raises(OptimArgsError, match=f"has {MOST + 1} patterns; up to {MOST} are read"):
        anyoptim.parse_optim_args({"no_decay": ["bias"] * (MOST + 1)}, "sgd")
    assert anyoptim.plan("sgd", llama(), no_decay=["model"] * MOST).groups
    with pytest.raises(OptimArgsError, match="must be float"):
        anyoptim.plan("sgd", llama(), lr=nested)


def test_messages_quote_little() -> None:
    assert shortened("a") == "'a'" and shortened(3) == "3" and shortened([1, "b"]) == "[1, 'b']"
    for value in (
        HUGE,
        DEEP,
        [HUGE],
        {HUGE: HUGE},
        "\0" * 999,
        10**10_000,
        [10**10_000],
        torch.zeros(9999),
        HUGE.encode(),
    ):
        assert len(shortened(value)) < 210
    assert (
        said(ValueError(HUGE)).endswith("x…") and said(ValueError("a\n b")) == "a b" and said(KeyError()) == "KeyError"
    )


@pytest.mark.parametrize("name", ["a+" * 50 + "a", "a." * 50 + "a:B", "torch.optim:\0", "torch.optim:\udc80",
                                  "\udc80:x", "torch.optim:Adam\u0301", "\u202eadam", "\ud800", ":", "+", "()", "a()",
                                  "", None, 3])  # fmt: skip
def test_names_of_any_characters(name: Any) -> None:
    with pytest.raises((UnknownOptimizerError, anyoptim.MissingPackageError)) as caught:
        anyoptim.optimizer_info(name)
    str(caught.value).encode()


# ---------------------------------------------------------------- infinities


class AnyThing(torch.optim.SGD):
    """Has no range for anything."""

    def __init__(
        self, params: Any, lr: float = 0.1, steps: int = 3, tensor: float | torch.Tensor = 1.0, free=None, most=math.inf
    ) -> None:
        super().__init__(params, lr=lr)


INFINITE = [math.inf, -math.inf, math.nan, 10**400, -(10**400), Fraction(10**400), np.float32("inf"), np.float64("nan"),
            torch.tensor(math.inf), "1e400", "inf", "-inf", "1" * 90 + "e999"]  # fmt: skip


@pytest.mark.usefixtures("restored_registry")
@pytest.mark.parametrize(
    "value", INFINITE, ids=lambda each: f"{type(each).__name__}-{str(each)[:9] if not isinstance(each, int) else ''}"
)
def test_what_is_infinite_is_refused_by_its_key(value: Any) -> None:
    anyoptim.register("anything")(AnyThing)
    for key in ("lr", "steps", "tensor", "free"):
        ways: list[dict[str, Any]] = [
            {key: value},
            {"optim_args": {key: value}},
            {"groups": [{"match": "q", key: value}]},
        ]
        if isinstance(value, str):
            ways += [{"optim_args": f"{key}={value}"}]
        for each in ways:
            with pytest.raises(OptimArgsError, match=rf"{key} must be"):
                anyoptim.plan("anything", llama(), **each)
    with pytest.raises(OptimArgsError, match=r"lr .*must be"):
        anyoptim.plan("adamw_torch", llama(), {"learning_rate": value})
    with pytest.raises(OptimArgsError, match=r"free must be a finite number"):
        anyoptim.plan("anything", llama(), free=[[value]] if not isinstance(value, str) else math.inf)
    if not isinstance(value, (str, torch.Tensor)):
        with pytest.raises(OptimArgsError, match=r"TrainingArguments\.warmup_steps must be a finite number"):
            anyoptim.plan("schedule_free_sgd", llama(), {"learning_rate": 1.0, "warmup_steps": value})


@pytest.mark.parametrize("number", ["1e400", "Infinity", "-Infinity", "NaN", "1" + "0" * 400, "1" + "0" * 5000])
def test_infinite_json(number: str) -> None:
    with pytest.raises(OptimArgsError, match="sgd: lr must be"):
        anyoptim.parse_optim_args('{"lr": ' + number + "}", "sgd")
    with pytest.raises(OptimArgsError, match=r"entry 1 \('q'\): lr must be"):
        anyoptim.parse_optim_args({"groups": '[{"match": "q", "lr": ' + number + "}]"}, "sgd")


@pytest.mark.usefixtures("restored_registry")
def test_infinity_where_it_is_meant() -> None:
    anyoptim.register("anything")(AnyThing)
    assert anyoptim.parse_optim_args("most=inf", "anything") == {"most": math.inf}
    assert anyoptim.parse_optim_args("clip_threshold=inf", "adalomo") == {"clip_threshold": math.inf}
    with pytest.raises(OptimArgsError, match="most must be float, not nan"):
        anyoptim.parse_optim_args({"most": math.nan}, "anything")


# ---------------------------------------------------------------- factories

OTHERS = [nn.Parameter(torch.ones(2))]


def ends(*_: Any) -> Any:
    raise SystemExit("no licence")


def stops(*_: Any) -> Any:
    raise KeyboardInterrupt


FACTORIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "None": (lambda params: None, "returned None, which is no torch.optim.Optimizer"),
    "class": (lambda params: torch.optim.SGD, "returned <class .*, which is no"),
    "text": (lambda params: HUGE, "returned 'x+…', which is no"),
    "list": (lambda params: DEEP, "which is no"),
    "others": (lambda params: torch.optim.SGD(OTHERS), "returned SGD with 1 parameters that it was not given"),
    "fewer": (lambda params: torch.optim.SGD(params[:1]), "returned SGD without 5 of the 21 parameters"),
    "more": (lambda params: torch.optim.SGD([*params, {"params": OTHERS}]), "with 1 parameters that it was not given"),
    "exit": (ends, "made no optimizer, but raised SystemExit: no licence"),
    "too few arguments": (lambda: None, "refuses its arguments: .*takes 0 positional arguments"),
    "no package": (lambda params: __import__("no_such_package"), "does not find what it imports"),
    "key": (lambda params: {}["k"], "refuses its arguments: 'k'"),
}


@pytest.mark.usefixtures("restored_registry")
@pytest.mark.parametrize("case", FACTORIES)
def test_a_factory_that_makes_something_else(case: str) -> None:
    factory, message = FACTORIES[case]
    anyoptim.register("strange")(factory)
    with pytest.raises(OptimError, match=message) as caught:
        anyoptim.get_optimizer("strange", llama())
    assert "strange: " in str(caught.value) and len(str(caught.value)) < 600


def test_groups_may_be_read_once() -> None:
    model = nn.Linear(2, 2)
    optimizer = anyoptim.plan("sgd", model).construct([{"params": (each for each in model.parameters())}])
    assert set(optimizer.param_groups[0]["params"]) == set(model.parameters())


@pytest.mark.usefixtures("restored_registry")
def test_a_factory_that_is_stopped_by_the_user() -> None:
    anyoptim.register("stopped")(stops)
    with pytest.raises(KeyboardInterrupt):
        anyoptim.get_optimizer("stopped", llama())


@pytest.mark.parametrize("thing", [None, 3, "text", [], torch.optim.SGD(OTHERS)], ids=str)
def test_what_is_no_factory_is_not_registered(thing: Any) -> None:
    with pytest.raises(OptimError, match="is no class and no function that makes optimizers"):
        anyoptim.register("thing")(thing)
