"""Draws the pictures of the documentation from what the library decides: ``make pictures``."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

import anyoptim
from anyoptim.integrations.models import meta_model
from anyoptim.memory.owned_state import ownership

FOLDER = Path(__file__).parent.parent / "docs" / "pictures"
MODEL, RANKS = "tiny-llama", 4
COLOURS = ["#4477aa", "#ee6677", "#228833", "#ccbb44"]
TEXT = "#808080"  # reads on white and on black


def owners() -> None:
    """Draw which rank holds what of each matrix, and which one steps it with Muon."""
    planned = anyoptim.plan("muon", meta_model(MODEL, "fp32"), {"fsdp": "full_shard"})
    assert planned.routing is not None
    of = ownership(planned, RANKS, sharded=True).of
    targets = [each for each in planned.routing.routes if each.is_target]
    layers = sorted({each.name.split(".")[2] for each in targets})
    kinds = list(dict.fromkeys(each.name.split(".")[-2].removesuffix("_proj") for each in targets))
    figure, (held, stepped) = pyplot.subplots(1, 2, figsize=(9, 2.9), layout="constrained")
    rows = [f"layer {each}" for each in layers]
    _empty(held, "which rank holds what of each matrix", kinds, rows)
    _empty(stepped, "who steps it whole, and holds its state", kinds, rows)
    for each in targets:
        at = kinds.index(each.name.split(".")[-2].removesuffix("_proj")), layers.index(each.name.split(".")[2])
        _box(stepped, at, 0, 1, of[each.parameter])
        for rank in range(RANKS):
            _box(held, at, rank / RANKS, 1 / RANKS, rank)
    legend = [Patch(color=colour, label=f"rank {rank}") for rank, colour in enumerate(COLOURS)]
    figure.legend(handles=legend, loc="outside lower center", ncols=RANKS, frameon=False, labelcolor=TEXT)
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / "owners.svg", transparent=True, metadata={"Date": None})


def _empty(axes: Axes, title: str, columns: list[str], rows: list[str]) -> None:
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    axes.set_title(title, color=TEXT, fontsize=11)
    axes.set_xticks([each + 0.5 for each in range(len(columns))], columns)
    axes.set_yticks([each + 0.5 for each in range(len(rows))], rows)
    axes.tick_params(length=0, colors=TEXT)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _box(axes: Axes, at: tuple[int, int], top: float, height: float, rank: int) -> None:
    column, row = at
    axes.add_patch(
        Rectangle((column + 0.08, row + 0.08 + 0.84 * top), 0.84, 0.84 * height, color=COLOURS[rank], linewidth=0)
    )


if __name__ == "__main__":
    pyplot.rcParams |= {
        "svg.hashsalt": "anyoptim",  # else each run writes other names
        "svg.fonttype": "none",  # as text
    }
    owners()
