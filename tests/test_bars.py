"""Bars of memory: true to scale, readable without colours, in any width, and a mark that says what fits."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from processes import printed
from rich.console import Console

from anyoptim.integrations.models import meta_model
from anyoptim.memory.footprint import Footprint
from anyoptim.planning.bars import PARTS, memory_bars, sizes, verdict
from anyoptim.planning.plan import plan

GIB = 2**30
PLAIN = Footprint(
    weights=4 * GIB,
    gradients=4 * GIB,
    state=8 * GIB,
    master_weights=0,
    step=0,
    exchange=0,
    remainder=0,
    scales=0,
    batch=0,
    elsewhere=0,
    where="",
    gradients_of="all parameters",
    state_from="",
)
FILLS = "".join(part.fill for part in PARTS)


def lines(footprints: dict[str, Footprint], *, memory: int | None = None, width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(memory_bars(footprints, memory=memory))
    return capture.get().splitlines()


def cells(line: str) -> str:
    return "".join(each for each in line if each in FILLS)


def test_bars_are_true_to_scale() -> None:
    one, two, legend = lines({"small": replace(PLAIN, state=0), "large": PLAIN}, width=79)
    assert len(two) == 79 and cells(two) == "█" * 16 + "▒" * 16 + "░" * 32
    assert cells(one) == "█" * 16 + "▒" * 16
    assert legend == "██ weights   ▒▒ gradients   ░░ optimizer state"


@pytest.mark.parametrize(
    "settings",
    ["", "master_weights=24bit,state_dtype=int8", "state_dtype=int8,offload=cpu", "fused_backward=true"],
)
@pytest.mark.parametrize("name", ["adamw_torch", "muon", "lookahead(lion)"])
def test_the_parts_are_all_that_is_held(name: str, settings: str) -> None:
    if settings.startswith("fused") and "(" in name:
        settings = ""
    held = plan(name, meta_model("tiny-llama", "bfloat16"), {"optim_args": settings}).footprint()
    assert sum(sizes(held)) == held.total
    assert min(sizes(held)) >= 0


@pytest.mark.parametrize("width", [24, 40, 60, 80, 160])
@pytest.mark.parametrize("memory", [1, GIB, 15 * GIB, 16 * GIB - 1, 16 * GIB, 17 * GIB, 900 * GIB])
def test_a_bar_passes_the_mark_where_it_does_not_fit_and_only_there(memory: int, width: int) -> None:
    found = {"one": PLAIN, "another": replace(PLAIN, state=GIB), "a_name_of_some_length": replace(PLAIN, gradients=0)}
    drawn = lines(found, memory=memory, width=width)
    assert max(map(len, drawn)) <= min(width, 80)
    bars = [line for line in drawn if "│" in line]
    assert len({line.index("│") for line in bars}) == 1
    for line, each in zip(bars, found.values(), strict=True):
        assert bool(cells(line.partition("│")[2])) == ((each.total or 0) > memory)
        assert ("fits into" in verdict("one", each, memory)) == ((each.total or 0) <= memory)


@pytest.mark.parametrize("others", [0, 900 * GIB])
def test_a_byte_decides_whether_a_bar_passes_the_mark(others: int) -> None:
    memory = 16 * GIB
    found = {"fits": PLAIN, "lacks": replace(PLAIN, gradients=4 * GIB + 1), "other": replace(PLAIN, state=others)}
    past = [cells(line.partition("│")[2]) for line in lines(found, memory=memory) if "│" in line]
    assert not past[0] and past[1]


def test_what_lies_elsewhere_is_said_and_no_part_of_the_bar() -> None:
    away = replace(PLAIN, elsewhere=7 * GIB, remainder=2 * GIB, where="host")
    assert sizes(away) == (4 * GIB, 0, 0, 4 * GIB, GIB, 0)
    bar, said, _ = lines({"muon": away})
    assert "9 GiB" in bar
    assert said.strip() == "and 7 GiB in the host's memory"


def test_unknown_state_is_no_promise() -> None:
    unknown = replace(PLAIN, state=None)
    assert "8 GiB + ?" in lines({"muon": unknown})[0]
    assert "is unknown" in verdict("muon", unknown, 24 * GIB)
    assert "does not fit" in verdict("muon", unknown, 7 * GIB)


def test_a_plan_shows_whether_it_fits() -> None:
    words = ("plan", "muon", "--model", "tiny-llama")
    assert "██ weights" in printed(*words) and "fit" not in printed(*words).partition("██ weights")[2]
    fits, lacks = (printed(*words, "--memory", each) for each in ("1GiB", "1KiB"))
    assert "muon fits into 1 GiB" in fits and "└ 1 GiB" in fits + fits.replace("1 GiB ┘", "└ 1 GiB")
    assert "muon does not fit into 1 KiB" in lacks and "anyoptim recommend" in lacks
    answer = json.loads(printed(*words, "--memory", "1KiB", "--json"))["memory"]
    assert (answer["available"], answer["fits"]) == (1024, False)
    assert "24GiB" in printed(*words, "--memory", "24", code=1)
