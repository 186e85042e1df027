"""What a name's page says of the evidence: a table, and a picture of its runs beside AdamW's."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot

from anyoptim.planning.evidence import BASELINE, Evidence, evidence, evidence_of, tasks

TEXT, OWN, BESIDE = "#808080", "#dd6633", "#4477aa"  # read on white and on black


def of_name(name: str) -> list[Evidence]:
    """Return what was measured of a name as it is, one task after the other."""
    return [each for each in (evidence_of(name, task) for task in tasks()) if each is not None]


def evidence_lines(name: str) -> Iterator[str]:
    """Yield the lines of a page on how a name did."""
    found = of_name(name)
    if not found:
        yield "No evidence: it was not among the optimizers that were trained for [evidence](../evidence.md)."
        return
    beside = "" if name == BASELINE else " AdamW's is dashed."
    yield f"![training loss of {name}](pictures/{name}.svg)"
    yield ""
    yield f"Training loss at its best learning rate, the mean of its seeds.{beside}"
    yield ""
    yield "| task | held out | AdamW | place | best `lr` |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for each in found:
        all_of_it = evidence(each.task)
        place = f"{all_of_it.index(each) + 1} of {len(all_of_it)}"
        baseline = evidence_of(BASELINE, each.task)
        adamw = "-" if baseline is None else f"{baseline.loss:.3f}"
        loss = f"{each.loss:.3f} ({each.lowest:.3f} to {each.highest:.3f})"
        about = tasks()[each.task]
        yield f"| {about.title}, {about.measure} | {loss} | {adamw} | {place} | {each.lr:g} |"
    yield ""
    yield "These are [small models on short tasks](../evidence.md): no ranking for large ones."


def picture(found: Sequence[Evidence]) -> str:
    """Draw the curves of one optimizer on each task, with AdamW's, as SVG."""
    with matplotlib.rc_context({"svg.hashsalt": "anyoptim", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(
            1, len(found), figsize=(3.4 * max(len(found), 2), 2.5), squeeze=False, layout="constrained"
        )
        for axis, each in zip(axes[0], found, strict=True):
            baseline = evidence_of(BASELINE, each.task)
            steps = tasks()[each.task].steps
            for one, style, colour in ((baseline, "--", BESIDE), (each, "-", OWN)):
                if one is not None:
                    places = [steps * (index + 1) / len(one.curve) for index in range(len(one.curve))]
                    axis.plot(places, one.curve, style, color=colour, linewidth=1.3)
            axis.set_title(tasks()[each.task].title, fontsize=9, color=TEXT)
            axis.set_xlabel("step", fontsize=8, color=TEXT)
            axis.spines[["top", "right"]].set_visible(False)
            axis.spines[["bottom", "left"]].set_color(TEXT)
            axis.tick_params(labelsize=8, colors=TEXT)
        axes[0][0].set_ylabel("training loss", fontsize=8, color=TEXT)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)
    return text.getvalue()
