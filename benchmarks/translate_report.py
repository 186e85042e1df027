"""The tables of results/translate.md, and its picture, from what translate.py has judged.

python benchmarks/translate_report.py
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import typer

mpl.use("svg")
from matplotlib import pyplot as plt
from translate import RESULTS, Judged, judgeable, read

from anyoptim.planning.evidence import Evidence, evidence_of, tasks

PAGE = Path(__file__).parent / "results" / "translate.md"
MARK = "<!-- from here on written by benchmarks/translate_report.py -->\n"
NEAR = (0.02, 0.05, 0.1, 0.2)
"""Nats, or shares of wrong answers, within which the best of the sweep counts as met."""
METHODS = {"measured": "#dd6633", "range": "#ccaa22", "rule": "#4477aa", "itself": "#228833"}
TEXT = "#808080"


@dataclass(frozen=True)
class Outcome:
    """A translation beside the sweep that it is held against."""

    judged: Judged
    best: Evidence

    @property
    def worse(self) -> float:
        """By how much its mean is above the sweep's best; infinite where a training failed."""
        found = self.judged.loss - self.best.loss
        return math.inf if math.isnan(found) else found

    @property
    def times(self) -> float:
        """The translated rate in units of the best one."""
        return self.judged.rate / self.best.lr

    @property
    def in_spread(self) -> bool:
        """Whether its mean is not above the worst seed at the best rate."""
        return self.worse <= self.best.highest - self.best.loss


def main() -> None:
    """Write the tables and draw the picture."""
    found = outcomes()
    before, _, _ = PAGE.read_text().partition(MARK)
    PAGE.write_text(before + MARK + "\n" + "\n".join(tables(found)) + "\n")
    draw(found)


def outcomes() -> list[Outcome]:
    """Return what was judged, the worst first."""
    found = []
    for each in read():
        best = evidence_of(each.name, each.task, each.optim_args)
        assert best is not None, each
        found.append(Outcome(each, best))
    return sorted(found, key=lambda each: (-each.worse, each.best.label))


def tables(found: list[Outcome]) -> Iterator[str]:
    """Yield the lines of the page that are measured."""
    yield "## How near"
    yield ""
    yield f"| task | names | median | {' | '.join(f'≤ {near:g}' for near in NEAR)} | in the seeds' range | worst |"
    yield "| --- | ---: | ---: |" + " ---: |" * (len(NEAR) + 2)
    for task in tasks().values():
        own = [each for each in found if each.judged.task == task.name]
        if own:
            yield row(task.title, own)
    yield ""
    yield "## By method"
    yield ""
    yield "Text and fine-tune together, in nats."
    yield ""
    yield f"| method | names | median | {' | '.join(f'≤ {near:g}' for near in NEAR)} | in the seeds' range | worst |"
    yield "| --- | ---: | ---: |" + " ---: |" * (len(NEAR) + 2)
    for method in METHODS:
        own = [each for each in found if each.judged.method == method and tasks()[each.best.task].measure != WRONG]
        if own:
            yield row(method, own)
    for task in tasks().values():
        own = [each for each in found if each.judged.task == task.name]
        yield ""
        yield f"## {task.title[0].upper()}{task.title[1:]}"
        yield ""
        missing = len(list(judgeable(task.name))) - len(own)
        yield f"The {task.measure} of {len(own)} names, the worst first{f'; {missing} to come' if missing else ''}."
        yield ""
        yield f"| optimizer | method | translated `lr` | best `lr` | {task.measure} | of the best | difference |"
        yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
        for each in own:
            args = f" `{each.best.optim_args}`" if each.best.optim_args else ""
            yield (
                f"| `{each.best.name}`{args} | {each.judged.method} | {each.judged.rate:g} | {each.best.lr:g}"
                f" | {each.judged.loss:.3f} | {each.best.loss:.3f} | {each.worse:+.3f} |"
            )


WRONG = "wrong answers"


def row(label: str, own: list[Outcome]) -> str:
    """Return the line of a group of translations."""
    worst = own[0]
    shares = " | ".join(share([each.worse <= near for each in own]) for near in NEAR)
    return (
        f"| {label} | {len(own)} | {statistics.median(each.worse for each in own):+.3f} | {shares}"
        f" | {share([each.in_spread for each in own])} | {worst.worse:+.3f} (`{worst.best.label}`) |"
    )


def share(each: list[bool]) -> str:
    """Return how many are true."""
    return f"{sum(each) / len(each):.0%}".replace("%", " %")


def draw(found: list[Outcome]) -> None:
    """Draw each translation: how far its rate is from the best one, and what that costs."""
    plt.rcParams |= {"svg.hashsalt": "anyoptim", "svg.fonttype": "none", "text.color": TEXT, "axes.labelcolor": TEXT}
    figure, axes = plt.subplots(1, len(tasks()), figsize=(11, 4.2), layout="constrained")
    for axis, task in zip(axes, tasks().values(), strict=True):
        own = [each for each in found if each.judged.task == task.name]
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["bottom", "left"]].set_color(TEXT)
        axis.tick_params(labelsize=8, colors=TEXT)
        axis.axhline(0.05, color=TEXT, linewidth=0.8, linestyle="--")
        axis.axvline(1, color=TEXT, linewidth=0.5)
        for method, colour in METHODS.items():
            points = [(each.times, each.worse) for each in own if each.judged.method == method]
            if points:
                axis.scatter(*zip(*points, strict=True), s=18, color=colour, label=method)
        for each in own[:3]:
            axis.annotate(each.best.label, (each.times, each.worse), xytext=(5, 3), textcoords="offset points",
                          fontsize=7)  # fmt: skip
        axis.set_xscale("log")
        axis.set_xticks([0.3, 1, 3, 10, 30], minor=False)
        axis.set_xticks([], minor=True)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlim(0.2, 40)
        axis.set_title(task.title, fontsize=9, loc="left", color=TEXT)
        axis.set_xlabel("translated rate in units of the best", fontsize=8)
        axis.set_ylabel(f"{task.measure}, more than at the best", fontsize=8)
    axes[0].legend(fontsize=8, frameon=False, labelcolor=TEXT)
    figure.savefig(RESULTS / "distance.svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    typer.run(main)
