"""Patterns of users: they mean what they mean to re, and end."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from toys import llama

import anyoptim
from anyoptim import OptimArgsError, OptimError, TargetModulesError
from anyoptim.arguments.patterns import Pattern
from anyoptim.text import said

SLOW = "(a|aa)+$"
"""Of which every way to match the name below is tried, for longer than anybody waits."""


def long_name() -> nn.Module:
    return nn.ModuleDict({"a" * 60 + "!": nn.Linear(2, 2), "head": nn.Linear(2, 2)})


@pytest.mark.parametrize(
    ("name", "given", "error"),
    [
        ("muon", lambda text: {"optim_target_modules": text}, TargetModulesError),
        ("muon", lambda text: {"optim_target_modules": [text]}, TargetModulesError),
        ("sgd", lambda text: {"groups": [{"match": text, "lr": 0.1}]}, OptimArgsError),
        ("sgd", lambda text: {"no_decay": text}, OptimArgsError),
        ("sgd", lambda text: {"optim_args": f"{text}@lr=0.1"}, OptimArgsError),
    ],
)
def test_a_pattern_has_an_end(name: str, given: Callable[[str], dict[str, Any]], error: type[OptimError]) -> None:
    began = time.process_time()
    with pytest.raises(error, match=r"takes over 0\.4 s to be searched for in names") as caught:
        anyoptim.plan(name, long_name(), **given(SLOW))
    assert time.process_time() - began < 5
    assert repr(SLOW) in str(caught.value)


@pytest.mark.parametrize("pattern", ["(a+)+$", ".*.*.*.*x", "(.*a){20}x", r"(\w+\.?)+\?"])
def test_patterns_that_take_long_in_re(pattern: str) -> None:
    began = time.process_time()
    with pytest.raises(TargetModulesError, match=r"optim_target_modules '.*' (matches no|takes over)"):
        anyoptim.plan("muon", long_name(), optim_target_modules=pattern)
    assert time.process_time() - began < 5


def test_its_time_is_one_for_all_names() -> None:
    pattern = Pattern(SLOW, "it", OptimArgsError)
    began = time.process_time()
    for _ in range(5):
        with pytest.raises(OptimArgsError, match=r"takes over 0\.4 s"):
            pattern.finds("a" * 60 + "!")
    assert time.process_time() - began < 4


@pytest.mark.parametrize(
    "text",
    ["((a{1000}){1000}){1000}", "a{4294967294}", "[a-\uffff]" * 5000, "a" * 50_000, "a|" * 40_000, "(a{9}){9999}"],
    ids=["nested", "often", "wide", "long", "either", "group"],
)
def test_a_pattern_that_costs_much_is_not_compiled(text: str) -> None:
    began = time.process_time()
    with pytest.raises(TargetModulesError, match=r"is too large for a regex of names"):
        anyoptim.plan("muon", llama(), optim_target_modules=text)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "text", ["(" * 5000 + ")" * 5000, "(?:" * 3000 + "a" + ")" * 3000, "\\", "(?P<a>", "a{9999999999}"]
)
def test_a_pattern_that_is_none(text: str) -> None:
    with pytest.raises(OptimArgsError, match=r"groups entry 1 \('.*'…?\) is (no valid regex|too large)"):
        anyoptim.plan("sgd", llama(), groups=[{"match": text, "lr": 0.1}])


PIECES = [
    *(
        "a",
        "b",
        "m",
        ".",
        "l",
        "q",
        "_",
        "3",
        "\\.",
        "\\d",
        "\\w",
        "\\b",
        "\\B",
        "\\s",
        "\\D",
        "\\W",
        "\\A",
        "\\Z",
        "^",
        "$",
    ),
    *("|", "(", ")", "(?:", "(?i)", "(?P<n>", "(?P=n)", "\\1", "(?=", "(?!", "(?<=", "(?<!", "(?(1)", "(?#c)", "(?s)"),
    *(
        "(?m)",
        "(?a)",
        "(?-i:",
        "(?i:",
        "[a-z]",
        "[0-9_]",
        "[]a]",
        "[^]a]",
        "[\\]a]",
        "[[:alpha:]]",
        "[a--b]",
        "[a&&b]",
        "[[",
    ),
    *(
        "{e}",
        "{e<=1}",
        "{1}",
        "{,2}",
        "{2,}",
        "{,}",
        "{}",
        "{",
        "}",
        "{1,2",
        "*",
        "+",
        "?",
        "*?",
        "layers",
        "mlp",
        "\\n",
    ),
    *(
        "\\x41",
        "\\u0041",
        "\\N{DIGIT ONE}",
        "\\0",
        "\\07",
        "\\L<n>",
        "\\p{L}",
        "\\X",
        "\\K",
        "\\G",
        "\\R",
        "\\m",
        "\\h",
    ),
    *("(?|", "(?R)", "(*F)", "(?<n>", "<", ">", "=", "!", "#", " ", "-", "é"),
]
NAMED = ["", "model.layers.0.mlp.up_proj", "lm_head", "q", "layers.3.attn.q_proj.weight", "a1b", "abba", "l{e}",
         "a{e<=1}", "[:a]", "3", "A", "layers\n", "é", "a b", "a-b", "m{1,2"]  # fmt: skip


@settings(max_examples=2000)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join))
@example("[[:alpha:]]")
@example("[:alpha:]]")
@example("a{e<=1}")
@example(r"\B")
@example(r"[^\D[\d.]+")
@example(r"a[^\s\S]*b")
@example(r"\N{DIGIT ONE}")
def test_patterns_mean_what_they_mean_to_re(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = re.compile(text)
        except (re.error, OverflowError) as error:
            with pytest.raises(OptimArgsError, match="no valid regex") as caught:
                Pattern(text, "it", OptimArgsError)
            assert said(error) in str(caught.value)
            return
        pattern = Pattern(text, "it", OptimArgsError)
    for name in NAMED:
        assert pattern.matches(name) is (expected.fullmatch(name) is not None), name
        assert pattern.finds(name) is (expected.search(name) is not None), name


def test_a_verbose_pattern_is_refused() -> None:
    with pytest.raises(OptimArgsError, match="has the flag x"):
        Pattern("(?x) a # a comment {", "it", OptimArgsError)
    assert Pattern(r"\(?x[(?x]", "it", OptimArgsError).matches("(xx")
