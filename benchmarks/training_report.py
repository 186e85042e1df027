"""The tables of results/training.md, and its pictures, from the runs that training.py has made.

python benchmarks/training_report.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
import typer

mpl.use("Agg")
from matplotlib import pyplot as plt
from training import OPTIMIZERS, RESULTS, SETTINGS, key_of, read

COLOURS = {"fp32": "#1e293b", "24bit + int8": "#c2410c", "bf16": "#0891b2"}
OFFSETS = {"fp32": 0.22, "24bit + int8": 0.0, "bf16": -0.22}
FP32, *NARROW = SETTINGS
Found = dict[tuple[str, str, int], dict[str, Any]]
"""Runs by optimizer, setting and seed."""


def main() -> None:
    """Print the tables and draw the pictures."""
    found = {key_of(each): each for each in read(RESULTS / "runs.jsonl")}
    print(losses(found), differences(found), sizes(found), sep="\n\n")
    draw_losses(found, RESULTS / "losses")
    draw_curves(found, "adamw_torch", RESULTS / "adamw")


# ---------------------------------------------------------------- numbers


def last(found: Found, name: str, setting: str) -> dict[int, float]:
    """Return the held-out loss after the last step, by seed."""
    return {
        seed: each["heldout"][-1] for (own, held, seed), each in sorted(found.items()) if (own, held) == (name, setting)
    }


def from_fp32(found: Found, name: str, setting: str) -> list[float]:
    """Return how much higher each seed's loss is than in fp32 with that seed."""
    wide = last(found, name, FP32)
    return [loss - wide[seed] for seed, loss in last(found, name, setting).items() if seed in wide]


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Return a mean with the least and the greatest; of one value itself."""
    if len(values) < 2:
        return f"{values[0]:{form}}" if values else "-"
    return f"{mean(values):{form}} ({min(values):{form}} .. {max(values):{form}})"


def losses(found: Found) -> str:
    """Return the table of held-out losses."""
    return table(
        ["optimizer", "seeds", *SETTINGS],
        lambda name: [
            " ".join(str(len(last(found, name, setting))) for setting in SETTINGS),
            *(spread(list(last(found, name, setting).values())) for setting in SETTINGS),
        ],
    )


def differences(found: Found) -> str:
    """Return the table of what narrow weights and state cost, and how far seeds are apart."""

    def row(name: str) -> list[str]:
        wide = list(last(found, name, FP32).values())
        return [
            *(spread(from_fp32(found, name, setting), "+.4f") for setting in NARROW),
            f"{max(wide) - min(wide):.4f}" if len(wide) > 1 else "-",
        ]

    return table(["optimizer", *(f"{each} - fp32" for each in NARROW), "spread of fp32's seeds"], row)


def sizes(found: Found) -> str:
    """Return the table of bytes per parameter."""

    def row(name: str) -> list[str]:
        return [parts(name, setting) for setting in SETTINGS]

    def parts(name: str, setting: str) -> str:
        run = next((each for key, each in found.items() if key[:2] == (name, setting)), None)
        if run is None:
            return "-"
        held = run["bytes_per_parameter"]
        return f"{sum(held.values()):.2f} = " + " + ".join(f"{size:.2f}" for size in held.values())

    return table(["optimizer", *SETTINGS], row)


def table(columns: Sequence[str], row: Callable[[str], Sequence[str]]) -> str:
    """Return a table with a row for each optimizer."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *([f"`{name}`", *row(name)] for name in OPTIMIZERS)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---------------------------------------------------------------- pictures


def draw_losses(found: Found, path: Path) -> None:
    """Draw each run's last held-out loss, and beside it how far it is from fp32's with its seed."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.4), sharey=True)
    for place, name in enumerate(reversed(OPTIMIZERS)):
        for setting, colour in COLOURS.items():
            level = place + OFFSETS[setting]
            dots(left, list(last(found, name, setting).values()), level, colour)
            if setting != FP32:
                dots(right, from_fp32(found, name, setting), level, colour)
        wide = list(last(found, name, FP32).values())
        if len(wide) > 1:
            half = (max(wide) - min(wide)) / 2
            right.barh(place, 2 * half, left=-half, height=0.75, color="#e7e5e4", zorder=0)
    for axis in (left, right):
        for place in range(len(OPTIMIZERS) - 1):
            axis.axhline(place + 0.5, color="#e7e5e4", linewidth=0.8, zorder=0)
    right.axvline(0, color=COLOURS[FP32], linewidth=1)
    left.set_yticks(range(len(OPTIMIZERS)), list(reversed(OPTIMIZERS)))
    left.set_xlabel("held-out loss, nats per byte")
    right.set_xlabel("above fp32 with the same seed\ngrey: as wide as fp32's own seeds are apart")
    right.autoscale()
    right.margins(x=0.04)
    left.set_ylim(-0.5, len(OPTIMIZERS) - 0.5)
    handles = [
        plt.Line2D([], [], color=colour, marker="o", linestyle="", label=setting) for setting, colour in COLOURS.items()
    ]
    figure.legend(handles=handles, loc="upper center", ncols=len(handles), frameon=False)
    finish(figure, path, top=0.93)


def dots(axis: Any, values: Sequence[float], level: float, colour: str) -> None:
    """Draw a point for each seed and a line at their mean."""
    axis.plot(values, [level] * len(values), "o", color=colour, markersize=5, alpha=0.75, markeredgewidth=0)
    if values:
        axis.plot([mean(values)] * 2, [level - 0.1, level + 0.1], color=colour, linewidth=2)


def draw_curves(found: Found, name: str, path: Path) -> None:
    """Draw an optimizer's held-out loss against steps, and below how far it is from fp32's."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, height_ratios=(2, 1))
    seeds = sorted(last(found, name, FP32))
    for setting, colour in COLOURS.items():
        own = [seed for seed in seeds if (name, setting, seed) in found]
        if not own:
            continue
        steps = found[name, setting, own[0]]["at"]
        curves = [found[name, setting, seed]["heldout"] for seed in own]
        wide = [found[name, FP32, seed]["heldout"] for seed in own]
        away = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(curves, wide, strict=True)]
        for axis, lines in ((above, curves), (below, away)):
            columns = list(zip(*lines, strict=True))
            style = (0, (4, 2)) if setting == "24bit + int8" else "-"
            axis.plot(
                steps, [mean(each) for each in columns], color=colour, linewidth=2, linestyle=style, label=setting
            )
            axis.fill_between(steps, list(map(min, columns)), list(map(max, columns)), color=colour, alpha=0.15, lw=0)
    above.set_title(
        f"{name}: mean of {len(seeds)} seeds, and from the least to the greatest" if len(seeds) > 1 else name,
        fontsize=10,
        loc="left",
    )
    above.set_ylabel("held-out loss, nats per byte")
    above.legend(frameon=False)
    below.set_ylabel("above fp32,\nsame seed")
    below.set_xlabel("step")
    finish(figure, path)


def finish(figure: Any, path: Path, top: float = 1.0) -> None:
    """Write a picture, as SVG for the page and as PNG to look at."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    figure.tight_layout(rect=(0, 0, 1, top))
    for suffix in (".svg", ".png"):
        figure.savefig(path.with_suffix(suffix), dpi=110, metadata={"Date": None} if suffix == ".svg" else None)
    plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
