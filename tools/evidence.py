"""Makes a page, pictures and what the package knows of the runs of ``benchmarks/evidence.py``: ``make evidence``."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from anyoptim.comparing.race import Run
from anyoptim.comparing.results import Results
from anyoptim.comparing.wanted import search_of
from anyoptim.planning import evidence as known
from anyoptim.planning.evidence import BASELINE, Evidence
from benchmarks.evidence import RESULTS, SEEDS, SUBJECTS, TASKS, Subject

ROOT = Path(__file__).parent.parent
DATA = ROOT / "src" / "anyoptim" / "planning" / "evidence.json"
PICTURES = ROOT / "docs" / "pictures"
MEASURES = {False: "held-out loss", True: "wrong answers"}
TITLES = {"bytes": "text", "finetune": "fine-tune", "modular-addition": "modular addition"}
TEXT, OWN, BESIDE, OTHERS = "#808080", "#dd6633", "#4477aa", "#bbbbbb"  # read on white and on black
COLUMNS = 5


def main() -> None:
    """Write the data, the pictures and the page."""
    DATA.write_text(json.dumps(collected(), indent=1) + "\n")
    pyplot.rcParams |= {"svg.hashsalt": "anyoptim", "svg.fonttype": "none", "text.color": TEXT, "axes.labelcolor": TEXT}
    for task in known.tasks():
        rates(task)
        front(task)
    page = ROOT / "docs" / "evidence.md"
    before, _, _ = page.read_text().partition(MARK)
    page.write_text(before + MARK + "\n" + "\n".join(tables()) + "\n")


MARK = "<!-- from here on written by tools/evidence.py -->\n"


def collected() -> dict[str, Any]:
    """Return all that the package is to know, as plain values."""
    times = {}
    file = RESULTS / "times.jsonl"
    for each in map(json.loads, file.read_text().splitlines() if file.exists() else ()):
        times[each["name"], each["optim_args"]] = each["step"]
    tasks, results = [], []
    versions: dict[str, str] = {}
    for name in (each for each in TASKS if (RESULTS / f"{each}.jsonl").exists()):
        task = TASKS[name]()
        count = sum(each.numel() for each in task.model().parameters())
        about = {
            "name": name,
            "title": TITLES[name],
            "summary": task.summary,
            "steps": task.steps,
            "parameters": count,
            "measure": MEASURES[task.accuracy_at is not None],
        }
        tasks.append(about)
        there = Results(RESULTS / f"{name}.jsonl")
        for subject in SUBJECTS:
            entries = list(search_of(subject.name, task, there, SEEDS, task.steps, subject.optim_args))
            runs = [run for run in map(there.find, entries) if run is not None and run.entry.steps == task.steps]
            if len(runs) == len([each for each in entries if each.steps == task.steps]):
                found = summary(subject, runs)
                if found:
                    results.append({**found, "task": name, "state": round(found["state"] / count, 3),
                                    "step": times.get((subject.name, subject.optim_args))})  # fmt: skip
                    versions |= runs[0].entry.versions
    machine = f"{platform.system()} {platform.machine()}, one thread for a run"
    return {"machine": machine, "versions": versions, "tasks": tasks, "results": results}


def summary(subject: Subject, runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return what the whole runs of a search came to; ``None`` where all of them failed."""
    whole = [each for each in runs if each.heldout_loss is not None]
    first = sorted((each.entry.learning_rate, each.score) for each in whole if each.entry.seed == 0)
    if not first:
        return None
    lr, _ = min(first, key=lambda pair: pair[1] or 0.0)
    best = [each for each in whole if each.entry.learning_rate == lr]
    losses = [each.score or 0.0 for each in best]
    return {
        "name": subject.name,
        "optim_args": subject.optim_args,
        "lr": lr,
        "loss": round(statistics.fmean(losses), 4),
        "lowest": round(min(losses), 4),
        "highest": round(max(losses), 4),
        "seeds": len(losses),
        "rates": [[rate, round(loss or 0.0, 4)] for rate, loss in first],
        "curve": [round(statistics.fmean(each), 3) for each in zip(*(run.losses for run in best), strict=True)],
        "state": max(each.state_bytes for each in best),
    }


# ---------------------------------------------------------------- pictures


def rates(task: str) -> None:
    """Draw loss against rate, a panel for each optimizer with AdamW's beside, the best first."""
    found = known.evidence(task)
    rows = -(-len(found) // COLUMNS)
    figure, axes = pyplot.subplots(
        rows, COLUMNS, figsize=(11, 1.75 * rows), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    adamw = next(each for each in found if each.label == BASELINE)
    lowest = found[0].loss
    # what is far off does not flatten the others
    highest = min(max(loss for each in found for _, loss in each.rates), statistics.median(e.loss for e in found) + 1)
    for axis, each in zip(axes.flat, found, strict=False):
        bare(axis)
        axis.plot(*zip(*adamw.rates, strict=True), color=BESIDE, linewidth=1, linestyle="--")
        axis.plot(*zip(*each.rates, strict=True), color=OWN, marker="o", markersize=3)
        axis.set_title(f"{each.label.replace(' ', chr(10))}  {each.loss:.3f}", fontsize=8, loc="left", color=TEXT)
        axis.set_xscale("log")
        axis.set_ylim(lowest - 0.05 * (highest - lowest), highest)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    figure.supxlabel("learning rate", fontsize=9)
    figure.supylabel(known.tasks()[task].measure, fontsize=9)
    figure.savefig(PICTURES / f"evidence-{task}-rates.svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)


def front(task: str) -> None:
    """Draw loss against bytes of state, and those that none beats in both."""
    found = known.evidence(task)
    figure, axis = pyplot.subplots(figsize=(9, 4.6), layout="constrained")
    bare(axis)
    best = list(pareto(found))
    middle = statistics.median(each.loss for each in found)
    limit = middle + 1.5 * (middle - found[0].loss)
    for each in found:
        on_front = each in best
        if each.loss <= limit:
            axis.errorbar(each.state, each.loss, [[each.loss - each.lowest], [each.highest - each.loss]], fmt="o",
                          markersize=5, color=OWN if on_front else OTHERS, elinewidth=0.8)  # fmt: skip
    axis.plot([each.state for each in best], [each.loss for each in best], color=OWN, linewidth=0.8)
    for each in [*best, *(each for each in found if each.label == BASELINE and each not in best)]:
        if each.loss <= limit:
            axis.annotate(each.label, (each.state, each.loss), xytext=(4, -10), textcoords="offset points", fontsize=8)
    axis.set_xscale("symlog", linthresh=1)  # many take little, few take much
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xticks([0, 1, 2, 4, 8, 16, 32])
    axis.set(xlabel="bytes of state for each parameter", ylabel=known.tasks()[task].measure)
    axis.set_ylim(top=limit)
    figure.savefig(PICTURES / f"evidence-{task}-front.svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)


def pareto(found: Sequence[Evidence]) -> Iterator[Evidence]:
    """Yield those that no other one beats in loss and in bytes, the smallest first."""
    lowest = float("inf")
    for each in sorted(found, key=lambda each: (each.state, each.loss)):
        if each.loss < lowest:
            lowest = each.loss
            yield each


def bare(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["bottom", "left"]].set_color(TEXT)
    axis.tick_params(labelsize=8, colors=TEXT)


# ---------------------------------------------------------------- the page


def tables() -> Iterator[str]:
    """Yield the lines of the page that are measured."""
    for task in known.tasks().values():
        found = known.evidence(task.name)
        measure = task.measure[0].upper() + task.measure[1:]
        adamw = next(each for each in found if each.label == BASELINE)
        yield f"## {task.title[0].upper()}{task.title[1:]}"
        yield ""
        yield f"{task.summary} {task.parameters:,} parameters, {task.steps} steps."
        yield ""
        yield f"![{task.measure} against bytes of state](pictures/evidence-{task.name}-front.svg)"
        yield ""
        yield f"{measure} against bytes of state. The line joins those that no other one beats in both."
        yield ""
        yield f"| optimizer | {task.measure} | against AdamW | best `lr` | step | state |"
        yield "| --- | ---: | ---: | ---: | ---: | ---: |"
        for each in found:
            args = f" `{each.optim_args}`" if each.optim_args else ""
            spread = f"{each.loss:.3f} ({each.lowest:.3f} to {each.highest:.3f})"
            step = "-" if each.step is None else f"{each.step:.2f}"
            yield (
                f"| `{each.name}`{args} | {spread} | {each.loss - adamw.loss:+.3f} | {each.lr:g} | {step}"
                f" | {each.state:.3g} |"
            )
        yield ""
        yield f"![{task.measure} against learning rate](pictures/evidence-{task.name}-rates.svg)"
        yield ""
        yield f"{measure} of one seed against the rate; AdamW's is dashed. A flat curve forgives a wrong rate."
        yield ""


if __name__ == "__main__":
    main()
