"""Texts that nobody would write, through every door that text comes in by: the same ones for the same seed."""

from __future__ import annotations

import json
import resource
import warnings
from collections.abc import Callable
from random import Random
from time import perf_counter

from torch import nn

import anyoptim
from anyoptim.arguments.fields import Fields
from anyoptim.arguments.settings import resolve
from anyoptim.names.role import EVERY_ROLE
from anyoptim.routing.adjustments import adjust
from anyoptim.routing.layers import layer_numbers
from anyoptim.routing.structure import read_structure
from anyoptim.routing.targets import choose_targets

LIMIT = 0.5
GROWTH = 300 * 2**20

NASTY = [
    *"()[]{}<>,=:@+*?|^$.\\/'\"#-_ \t\n\0",
    *("(?:", "(?P<a>", "(?P=a)", "(?=", "(?<!", "(?i)", "(?x)", "(?#", "[[:alpha:]]", "[^", "{e<=1}", "\\p{L}", "\\1"),
    *(
        "(a+)+$",
        ".*.*.*.*x",
        "(.*)*",
        "(\\w+\\.?)+!",
        "{1000}",
        "{2,}",
        "{4294967295}",
        "[a-\uffff]",
        "a|",
        "\\N{DASH}",
    ),
    *("1e400", "-1e400", "nan", "inf", "NaN", "Infinity", "10" * 30, "9" * 500, "0x10", "1_000", "1e-3", "-0.0", ".5"),
    *("none", "null", "true", "off", "lr", "eps", "betas", "groups", "match", "no_decay", "implementation", "lr_ratio"),
    *('{"lr":', '"groups":[{"match":', "[[[[", "]]]]", '{"a":{"a":', "'a", '"a', "\\u0000", "//", "--", "all-linear"),
    *(
        "\udc80",
        "\u202e",
        "e\u0301",
        "\ufeff",
        "\U0001f600",
        "İ",
        "ß",
        "٣",
        "\u2028",
        "\x7f",
        "lookahead(",
        "muon+",
        "mlp",
    ),
]
VALID = [
    "lr=1e-3,eps=1e-6",
    "betas=(0.9,0.95),weight_decay=0.1",
    '{"lr": 1e-3, "betas": [0.9, 0.95]}',
    "embed@lr=1e-5,norm|bias@weight_decay=0",
    "no_decay=[bias,norm],layer_decay=0.8",
    '{"groups": [{"match": "mlp", "lr_ratio": 0.5}]}',
    r".*\.(q|k|v)_proj",
    '["attn", "mlp"]',
    "all-linear",
]


def fuzz(seed: int, count: int) -> None:
    """Put so many texts in; to be called in a process of its own, whose memory is measured.

    Raises:
        AssertionError: something else than an ``OptimError`` is raised, or it takes too long or too much memory.
    """
    warnings.simplefilter("ignore")
    random, doors = Random(seed), _doors()
    names = [name for name in anyoptim.list_optimizers() if not anyoptim.optimizer_info(name).is_wrapper]
    for _, door in doors:
        _passes(door, names[0], VALID[0])  # what the first one imports
    began_with = _peak()
    for index in range(count):
        text, name = _text(random, names), names[index % len(names)]
        door = random.choices([each for _, each in doors], [weight for weight, _ in doors])[0]
        taken = _passes(door, name, text)
        if taken > LIMIT:  # once more: the machine may have had something else to do
            taken = _passes(door, name, text)
        assert taken <= LIMIT, f"{taken:.2f} s for {door.__name__} of {name}: {text[:500]!r}"
    assert _peak() - began_with < GROWTH, f"{(_peak() - began_with) >> 20} MiB for {count} texts of seed {seed}"


def _passes(door: Callable[[str, str], object], name: str, text: str) -> float:
    """Return the seconds that one text takes."""
    began = perf_counter()
    try:
        door(name, text)
    except anyoptim.OptimError as error:
        assert len(str(error)) < 3000, f"{door.__name__} of {name}: {error}"
    except BaseException as error:
        raise AssertionError(f"{door.__name__} of {name}: {text[:500]!r}") from error
    return perf_counter() - began


def _doors() -> list[tuple[float, Callable[[str, str], object]]]:
    """Return what takes a text, each with its weight: what a name means costs most, since its spelling is mended."""
    layers = [
        nn.ModuleDict({"attn": nn.Linear(2, 2), "q_proj": nn.Linear(2, 2), "norm": nn.LayerNorm(2)}) for _ in "ab"
    ]
    model = nn.ModuleDict({"embed": nn.Embedding(3, 2), "layers": nn.ModuleList(layers), "lm_head": nn.Linear(2, 3)})
    structure = read_structure(model)
    layers_found = layer_numbers(model, structure.places)

    def settings(name: str, given: object) -> None:
        resolved = resolve(anyoptim.optimizer_info(name), Fields(None), given, {})
        adjust(resolved.overrides, structure.places, layers_found, name)

    def optim_args(name: str, text: str) -> None:
        settings(name, text)

    def optim_args_as_json(name: str, text: str) -> None:
        settings(name, '{"lr": ' + text + "}")

    def optim_args_as_a_mapping(name: str, text: str) -> None:
        key, _, value = text.partition("=")
        settings(name, {key: value})

    def hyperparameter(name: str, text: str) -> None:
        keys = anyoptim.optimizer_info(name).hyperparameters
        settings(name, {keys[len(text) % len(keys)].name: text} if keys else {})

    def groups(name: str, text: str) -> None:
        settings(name, {"groups": [{"match": text, "lr": text[:9]}]})

    def match(name: str, text: str) -> None:
        settings(name, {"groups": [{"match": text, "lr": 0.1}], "no_decay": text})

    def targets(name: str, text: str) -> None:
        choose_targets(structure, text, EVERY_ROLE, name)

    def listed_targets(name: str, text: str) -> None:
        choose_targets(structure, text.split(",") if len(text) % 2 else json.dumps([text]), EVERY_ROLE, name)

    def a_name(_: str, text: str) -> None:
        anyoptim.optimizer_info(text)

    def a_pattern_of_names(_: str, text: str) -> None:
        anyoptim.list_optimizers(text)

    return [
        *((3.0, each) for each in (optim_args, optim_args_as_json, optim_args_as_a_mapping, hyperparameter)),
        *((3.0, each) for each in (groups, match, targets, listed_targets)),
        *((0.3, each) for each in (a_name, a_pattern_of_names)),
    ]


def _text(random: Random, names: list[str]) -> str:
    """Return a valid text with damages, or tokens one after the other; a few are very long."""
    text = random.choice(VALID) if random.random() < 0.5 else ""
    if random.random() < 0.1:
        text = random.choice(names)
    for _ in range(random.randint(1, 6)):
        at, end = sorted(random.randint(0, len(text)) for _ in range(2))
        damage = random.random()
        if damage < 0.6:
            text = text[:at] + random.choice(NASTY) + text[at:]
        elif damage < 0.8:
            text = text[:at] + text[end:]
        else:
            text = text[:end] + text[at:end] * random.randint(1, 4) + text[end:]
    if random.random() < 0.002:
        text = text * random.choice([100, 1_000, 10_000])
    return text[:1_000_000]


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
