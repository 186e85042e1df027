"""Pictures of a comparison: nothing that is written lies on anything else, whatever the names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from matplotlib import pyplot

from anyoptim.cli.demo import GUIDE
from anyoptim.comparing.plots import figures
from anyoptim.comparing.race import Entry, Run
from anyoptim.comparing.results import Standing

LONG = ("pytorch_optimizer/schedulefreeadamw", "lookahead(galore_adamw_8bit_layerwise)", "grokadamw+adamw_torch_fused")


def standing(name: str, rates: tuple[float, ...]) -> Standing:
    losses = tuple(5.5 - 0.03 * step for step in range(100))
    run = Run(
        entry=Entry("bytes", name, "", rates[0], 0, 100, 16, {}),
        implementation="native",
        package="anyoptim",
        losses=losses,
        seconds=tuple(0.1 * step for step in range(100)),
        accuracies=(),
        heldout_loss=2.3144,
        step_seconds=0.1,
        state_bytes=3_000_000,
        error="",
    )
    runs = tuple(replace(run, entry=replace(run.entry, learning_rate=rate)) for rate in rates)
    return Standing(name, "native", rates[0], (run,), runs, 1.0)


@pytest.mark.parametrize("names", [GUIDE, GUIDE[:3] + LONG, LONG[:2], LONG[:1]], ids=["demo", "long", "two", "one"])
def test_titles_and_labels_stand_free(names: tuple[str, ...]) -> None:
    found = [standing(name, (1e-4, 1e-3)) for name in names]
    drawn = 0
    for name, _, figure in figures(found, baseline="adamw_torch", unit="training loss"):
        figure.canvas.draw()
        axes = [each for each in figure.axes if each.get_visible()]
        boxes = {text: text.get_window_extent() for text in written(figure, axes)}
        panels = [axis.get_window_extent() for axis in axes]
        for text, box in boxes.items():
            whole = figure.bbox
            assert whole.x0 <= box.x0 < box.x1 <= whole.x1 and whole.y0 <= box.y0 < box.y1 <= whole.y1, (name, text)
            others = [place for other, place in boxes.items() if other is not text]
            assert not any(overlap(box, place) for place in (*panels, *others)), (name, text)
        drawn += 1
        pyplot.close(figure)
    assert drawn == 4


def written(figure: Any, axes: list[Any]) -> Iterator[Any]:
    """Yield what is written on a figure, but for the numbers beside bars, which stand in their panel."""
    yield from filter(None, (figure._suptitle, figure._supxlabel, figure._supylabel))
    for axis in axes:
        yield from (each for each in (axis._left_title, axis.xaxis.label) if each.get_text())
        inside = axis.get_window_extent()
        for labels, low, high, side in (
            (axis.get_xticklabels(), inside.x0, inside.x1, 0),
            (axis.get_yticklabels(), inside.y0, inside.y1, 1),
        ):
            for each in labels:  # there are some for ticks beyond the limits, too, which are not drawn
                box = each.get_window_extent()
                middle = (box.x0 + box.x1, box.y0 + box.y1)[side] / 2
                if box.width and low - 1 <= middle <= high + 1:
                    yield each


def overlap(one: Any, other: Any) -> bool:
    """Whether two boxes share more than a hair."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return bool(width > 0.5 and height > 0.5)
