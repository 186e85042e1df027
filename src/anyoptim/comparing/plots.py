"""The pictures of a comparison: small panels, one for each optimizer, so that twenty of them stay readable."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyoptim.comparing.results import Standing
from anyoptim.text import format_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 4
_TITLE = 36
"""Characters of a line of a panel's title, which has to end before the next panel."""
_OWN, _BASELINE, _OTHERS = "#c2410c", "#1e293b", "#d6d3d1"

Curve = tuple[Sequence[float], Sequence[float]]
"""Places and values."""


@dataclass(frozen=True)
class Picture:
    """A PNG of a report.

    Args:
        path: of the file.
        caption: a sentence on how to read it.
    """

    path: Path
    caption: str


def draw(found: Sequence[Standing], folder: Path, *, baseline: str, unit: str) -> list[Picture]:
    """Draw what a comparison found, and return the pictures in the order of a report.

    Args:
        found: what each optimizer came to, best first; at least one came to the end.
        folder: where the PNGs go.
        baseline: the name whose curve stands in every panel.
        unit: of the losses.
    """
    from matplotlib import pyplot as plt

    pictures = []
    for name, caption, figure in figures(found, baseline=baseline, unit=unit):
        figure.savefig(folder / name, dpi=110)
        plt.close(figure)
        pictures.append(Picture(folder / name, caption))
    return pictures


def figures(found: Sequence[Standing], *, baseline: str, unit: str) -> Iterator[tuple[str, str, Figure]]:
    """Yield the name, the caption and the figure of each picture; arguments as of :func:`draw`."""
    import matplotlib

    matplotlib.use("Agg")
    whole = [each for each in found if each.best]
    titles = {each.name: _title(each.name, f"{each.heldout[0]:.3g}") for each in whole}
    if not whole:
        return
    by_accuracy = whole[0].accuracy is not None
    curves = {each.name: _smooth(each.best[0].losses) for each in whole}
    # what explodes on its way does not flatten the others
    first, lowest = max(each[0] for each in curves.values()), min(min(each) for each in curves.values())
    margin = 0.05 * (first - lowest)
    of_losses: dict[str, Any] = {
        "y": unit,
        "log": (False, by_accuracy),
        "limits": None if by_accuracy else (lowest - margin, first + margin),
    }

    def panels(name: str, caption: str, curves: Mapping[str, Curve], **how: Any) -> tuple[str, str, Figure]:
        return name, caption, _panels(curves, titles, baseline=baseline, **how)

    rate = "at its best rate" if any(len(each.by_rate) > 1 for each in whole) else "at its rate"
    yield panels(
        "losses.png",
        f"Training loss {rate} against steps, smoothed; the number is the held-out loss.",
        {name: (range(1, len(curve) + 1), curve) for name, curve in curves.items()},
        x="step",
        **of_losses,
    )
    yield panels(
        "time.png",
        "The same against the seconds that training took.",
        {each.name: (each.best[0].seconds[: len(curves[each.name])], curves[each.name]) for each in whole},
        x="seconds",
        **of_losses,
    )
    if by_accuracy:
        yield panels(
            "accuracy.png",
            "Held-out accuracy against steps: a late rise is grokking.",
            {each.name: tuple(zip(*each.best[0].accuracies, strict=True)) for each in whole},  # type: ignore[misc]  # pairs become two
            x="step",
            y="held-out accuracy",
            log=(True, False),
            limits=(0.0, 1.03),
        )
    if any(len(each.by_rate) > 1 for each in whole):
        yield panels(
            "rates.png",
            "Held-out loss against the learning rate, without rates that failed: a flat curve forgives a wrong rate.",
            {each.name: (list(each.by_rate), list(each.by_rate.values())) for each in whole},
            x="learning rate",
            y="held-out loss",
            log=(True, False),
            marker="o",
        )
    yield "memory.png", "Optimizer state after training, measured.", _bars(found, baseline)


def _panels(
    curves: Mapping[str, Curve],
    titles: Mapping[str, str],
    *,
    baseline: str,
    x: str,
    y: str,
    log: tuple[bool, bool],
    marker: str = "",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Draw one panel per curve: its own, the baseline's, and all others in grey."""
    from matplotlib import pyplot as plt

    columns = min(_COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(3.3 * max(columns, 2), 2.5 * rows + 0.7),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(curves) :]:
        axis.set_visible(False)
    for axis, (name, own) in zip(axes.flat, curves.items(), strict=False):
        for other, curve in curves.items():
            if other not in (name, baseline):
                axis.plot(*curve, color=_OTHERS, linewidth=0.8)
        if baseline in curves and baseline != name:
            axis.plot(*curves[baseline], color=_BASELINE, linewidth=1.2, linestyle="--")
        axis.plot(*own, color=_OWN, linewidth=2, marker=marker, markersize=4)
        axis.set_title(titles[name], fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, labelbottom=True)
        if log[0]:
            axis.set_xscale("log")
        if log[1]:
            axis.set_yscale("log")
    if limits is not None:
        axes[0][0].set_ylim(*limits)
    figure.supxlabel(x, fontsize=10)
    figure.supylabel(y, fontsize=10)
    dashed = f", {baseline} (dashed)" if baseline in curves and len(curves) > 1 else ""
    grey = ", the others (grey)" if len(curves) > 2 else ""
    figure.suptitle(f"Each optimizer (solid){dashed}{grey}", fontsize=11, x=0.02, ha="left")
    return figure


def _title(name: str, loss: str) -> str:
    """Write a panel's title: a name too long for one line goes on in the next."""
    lines = [""]
    for part in re.findall(r"[^_/(+]*[_/(+]?", name):
        if len(lines[-1]) + len(part) > _TITLE:
            lines.append("")
        lines[-1] += part
    alone = len(lines[-1]) + 3 + len(loss) > _TITLE
    return "\n".join(lines) + ("\n" if alone else "   ") + loss


def _bars(found: Sequence[Standing], baseline: str) -> Figure:
    from matplotlib import pyplot as plt

    ordered = sorted(found, key=lambda each: -each.state_bytes)
    figure, axis = plt.subplots(figsize=(8, 0.32 * len(ordered) + 0.9), layout="constrained")
    sizes = [each.state_bytes / 2**20 for each in ordered]
    bars = axis.barh(
        [each.name for each in ordered],
        sizes,
        color=[_BASELINE if each.name == baseline else _OWN for each in ordered],
    )
    axis.bar_label(bars, [f" {format_bytes(each.state_bytes)}" for each in ordered], fontsize=8)
    axis.set_xlabel("optimizer state, MiB", fontsize=9)
    axis.margins(x=0.12)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)
    return figure


def _smooth(losses: Sequence[float], weight: float = 0.8) -> list[float]:
    """Return the exponential moving average, so that a curve shows its trend and not its batches."""
    smoothed: list[float] = []
    for loss in losses:
        smoothed.append(loss if not smoothed else weight * smoothed[-1] + (1 - weight) * loss)
    return smoothed
