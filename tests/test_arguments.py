"""optim_args: every documented form, every kind of mistake, and any text at all."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import NAMES

import anyoptim
from anyoptim import OptimArgsError, parse_optim_args
from anyoptim.arguments.keys import keys_of
from anyoptim.names.hyperparameters import REQUIRED

KEYS = [(name, key) for name in NAMES for key in keys_of(anyoptim.optimizer_info(name).default)]


class Everything(torch.optim.SGD):
    """Takes one argument of every type that text can express."""

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        steps: int = 3,
        flag: bool = True,
        maybe: float | None = None,
        maybe_flag: bool | None = None,
        pair: tuple[float, float] = (0.9, 0.999),
        many: tuple[int, ...] = (1,),
        words: list[str] | None = None,
        word: str = "plain",
        choice: Literal["small", 1, 8] = 1,
        dtype: torch.dtype = torch.float32,
        untyped=0.5,
        untyped_whole=1,
        anything=None,
    ) -> None:
        super().__init__(params, lr=lr)


@pytest.fixture(autouse=True)
def everything(restored_registry: None) -> None:
    anyoptim.register("everything")(Everything)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}),
        ("", {}),
        ("   ", {}),
        (" , ,", {}),
        ("lr=1", {"lr": 1.0}),
        ("lr=1e-3", {"lr": 1e-3}),
        ("lr=.5,", {"lr": 0.5}),
        (" lr = 1E-3 , steps = 7 ", {"lr": 1e-3, "steps": 7}),
        *[(f"flag={word}", {"flag": True}) for word in ("true", "True", "YES", "on", "1")],
        *[(f"flag={word}", {"flag": False}) for word in ("false", "False", "No", "off", "0")],
        ("maybe=none", {"maybe": None}),
        ("maybe=NULL", {"maybe": None}),
        ("maybe=2", {"maybe": 2.0}),
        ("maybe_flag=none", {"maybe_flag": None}),
        ("maybe_flag=off", {"maybe_flag": False}),
        ("pair=(0.9,0.95)", {"pair": (0.9, 0.95)}),
        ("pair=[0.9, 0.95]", {"pair": (0.9, 0.95)}),
        ("many=(1,2,3)", {"many": (1, 2, 3)}),
        ("many=()", {"many": ()}),
        ("words=[a, 'b,c', \"d=e\"]", {"words": ["a", "b,c", "d=e"]}),
        ("words=none", {"words": None}),
        ("word=a=b=c", {"word": "a=b=c"}),
        ("word='with, comma'", {"word": "with, comma"}),
        ('word="quoted"', {"word": "quoted"}),
        ("word=it's", {"word": "it's"}),
        ("choice=small", {"choice": "small"}),
        ("choice=8", {"choice": 8}),
        ('{"choice": 1}', {"choice": 1}),
        ("dtype=bfloat16", {"dtype": torch.bfloat16}),
        ("dtype=torch.float16", {"dtype": torch.float16}),
        ("untyped=3", {"untyped": 3.0}),
        ("untyped_whole=3", {"untyped_whole": 3}),
        ("untyped_whole=0.5", {"untyped_whole": 0.5}),
        ("anything=3", {"anything": 3}),
        ("anything=1e-3", {"anything": 1e-3}),
        ("anything=true", {"anything": True}),
        ("anything=(1,a)", {"anything": (1, "a")}),
        ("anything=text", {"anything": "text"}),
        ("anything=none", {"anything": None}),
        ('{"lr": 1e-3, "pair": [0.9, 0.95], "flag": false, "maybe": null}',
         {"lr": 1e-3, "pair": (0.9, 0.95), "flag": False, "maybe": None}),
        ({"lr": 1e-3, "flag": "off"}, {"lr": 1e-3, "flag": False}),
    ],
)  # fmt: skip
def test_every_documented_form(text: Any, expected: dict[str, object]) -> None:
    parsed = parse_optim_args(text, "everything")
    assert parsed == expected
    assert {key: type(value) for key, value in parsed.items()} == {key: type(value) for key, value in expected.items()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "'lr', which is not of the form key=value"),
        ("lr=", "'lr='"),
        ("=3", "'=3'"),
        ("lr=1,lr=2", "'lr' twice"),
        ('{"lr": 1, "lr": 2}', "'lr' twice"),
        ("lr=fast", "lr must be float, not 'fast'"),
        ("lr=nan", "lr must be float"),
        ("steps=1.5", "steps must be int, not '1.5'"),
        ("steps=true", "steps must be int"),
        ("flag=maybe", "flag must be true or false"),
        ("flag=2", "flag must be true or false"),
        ("maybe=x", "maybe must be float or none"),
        ("pair=0.9", r"pair must be \(float, float\)"),
        ("pair=(0.9)", r"pair must be \(float, float\)"),
        ("pair=(0.9,x)", "pair must be float, not 'x'"),
        ("pair=(0.9,0.95", r"lacks its closing '\)'"),
        ("pair=0.9)", "closes nothing"),
        ("words=[a,'b]", "lacks its closing"),
        ("choice=9", "choice must be 'small' or 1 or 8, not '9'"),
        ('{"choice": true}', "choice must be 'small' or 1 or 8, not True"),
        ("dtype=float99", "dtype must be a torch dtype"),
        ('{"lr": }', "no valid JSON object"),
        ("[1, 2]", "key=value"),
        ("steps=" + "9" * 5000, "steps must be int"),
        ("anything=" + "[" * 5000 + "]" * 5000, "anything"),
        ({3: 4}, "key 3"),
        (5, "must be text"),
    ],
)
def test_mistakes_name_the_key(text: Any, message: str) -> None:
    with pytest.raises(OptimArgsError, match=message):
        parse_optim_args(text, "everything")


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_a_typo_in_any_key_is_caught_and_mended(name: str, key: str) -> None:
    typo = key + "x" if len(key) < 3 else key[:-2] + key[-1] + key[-2]
    if typo in keys_of(anyoptim.optimizer_info(name).default):
        typo = key + "x"
    with pytest.raises(OptimArgsError) as caught:
        parse_optim_args(f"{typo}=1", name)
    assert repr(typo) in str(caught.value)
    assert f"Did you mean {key!r}" in str(caught.value) or f"or {key!r}" in str(caught.value)
    taken, _, also = str(caught.value).partition(" Settings: ")
    assert f"{key}=" in taken or key in also.rstrip(".").split(", ") or "beta" in key


@pytest.mark.parametrize("name", NAMES)
def test_defaults_can_be_written_and_read_back(name: str) -> None:
    for each in anyoptim.optimizer_info(name).hyperparameters:
        if each.default is REQUIRED:
            continue
        text = f"{each.name}={each.default}"
        assert parse_optim_args(text, name) == {each.name: each.default}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["-1", "-0.5"])
def test_values_outside_the_constructors_range(name: str, value: str) -> None:
    with pytest.raises(OptimArgsError, match=r"lr.* must be"):
        parse_optim_args(f"lr={value}", name) if name != "adafactor" else parse_optim_args("lr=x", name)


@pytest.mark.parametrize(
    ("name", "text", "key"),
    [
        ("adamw_torch", "betas=(0.9,1.0)", "betas"),
        ("adamw_torch", "beta2=1.5", "beta2"),
        ("apollo_adamw", "rank=-4", "rank"),
        ("apollo_adamw", "update_proj_gap=0", "update_proj_gap"),
        ("stable_adamw", "max_lr=0", "max_lr"),
        ("adalomo", "clip_grad_value=-1", "clip_grad_value"),
    ],
)
def test_range_errors_name_the_key(name: str, text: str, key: str) -> None:
    with pytest.raises(OptimArgsError, match=f"{key} must be"):
        parse_optim_args(text, name)


def test_one_element_of_betas() -> None:
    assert parse_optim_args("beta1=0.8", "adamw_torch") == {"beta1": 0.8}
    settings_ = anyoptim.plan("adamw_torch", None, {"adam_beta2": 0.95}, optim_args="beta1=0.8").hyperparameters
    assert settings_["betas"].value == (0.8, 0.95)
    with pytest.raises(OptimArgsError, match="betas and beta1"):
        parse_optim_args("betas=(0.9,0.99),beta1=0.8", "adamw_torch")


def test_names_of_training_arguments_are_recognised() -> None:
    with pytest.raises(OptimArgsError, match="Did you mean 'lr'"):
        parse_optim_args("learning_rate=1e-3", "sgd")
    with pytest.raises(OptimArgsError, match="Did you mean 'eps'"):
        parse_optim_args("adam_epsilon=1e-3", "adamw_torch")


def test_refused_keywords_say_why() -> None:
    with pytest.raises(OptimArgsError, match="gradient_release cannot be set: fused_backward=true does"):
        parse_optim_args("gradient_release=true", "stable_adamw")


def test_python_objects_have_no_text_form() -> None:
    with pytest.raises(OptimArgsError, match="grokking_signal_fns must be a list of functions"):
        parse_optim_args("grokking_signal_fns=[print]", "grokadamw")


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32).map(float)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "lr": NUMBERS,
        "steps": st.integers(-(10**15), 10**15),
        "flag": st.booleans(),
        "maybe": st.none() | NUMBERS,
        "pair": st.tuples(NUMBERS, NUMBERS),
        "many": st.lists(st.integers(-999, 999)).map(tuple),
        "word": st.text(st.characters(categories=["L", "N"]), min_size=1),
    },
)


@given(VALUES)
def test_what_is_written_is_read(values: dict[str, Any]) -> None:
    anyoptim.register("everything", replace=True)(Everything)
    text = ",".join(f"{key}={value}" for key, value in values.items())
    assert parse_optim_args(text, "everything") == values
    assert parse_optim_args(values, "everything") == values
    assert parse_optim_args(json.dumps(values), "everything") == values


def _bare(text: str) -> str:
    """Text without what repr() adds: quotes and backslashes."""
    return "".join(character for character in text if character not in "'\"\\")


@settings(max_examples=600)
@given(
    st.text()
    | st.text(alphabet="lrstepwod,=()[]{}'\" 0123456789.e-+:truefalsn", max_size=40)
    | st.lists(
        st.sampled_from(["lr", "steps", "flag", "pair", "word", "zzz", "dtype", "anything"]), max_size=4
    ).flatmap(
        lambda keys: st.tuples(*(st.text(alphabet="0123456789.e-()[],'\"anyof=", max_size=8) for _ in keys)).map(
            lambda values: ",".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
        )
    )
)
def test_any_text_is_typed_or_refused(text: str) -> None:
    anyoptim.register("everything", replace=True)(Everything)
    accepted = keys_of(anyoptim.optimizer_info("everything").default)
    try:
        parsed = parse_optim_args(text, "everything")
    except OptimArgsError as error:
        message = _bare(str(error))
        keys = [_bare(repr(item.partition("=")[0].strip())) for item in text.split(",") if item.strip()]
        assert not keys or text.strip().startswith("{") or any(key in message for key in keys)
        return
    types = {"lr": float, "steps": int, "flag": bool, "word": str, "dtype": torch.dtype, "pair": tuple, "many": tuple}
    for key, value in parsed.items():
        assert key in accepted
        assert type(value) is types.get(key, type(value))
