"""Loss curves as one picture: a panel for each optimizer, so that fifteen lines stay readable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyoptim.integrations.race import Run

_COLUMNS = 4
_OWN, _BASELINE, _OTHERS = "#c2410c", "#1e293b", "#d6d3d1"


def plot_losses(runs: Sequence[Run], path: Path, *, baseline: str) -> None:
    """Draw one panel per run: its own curve, the baseline's, and all others in grey.

    Args:
        runs: finished runs; the best held-out loss comes first.
        path: the PNG to write.
        baseline: the name whose curve stands in every panel.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    ordered = sorted(runs, key=lambda run: run.heldout_loss)
    curves = {run.name: _smooth(run.losses) for run in ordered}
    columns = min(_COLUMNS, len(ordered))
    rows = math.ceil(len(ordered) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.3 * columns, 2.5 * rows + 0.7), sharex=True, sharey=True, squeeze=False
    )
    for axis in axes.flat[len(ordered) :]:
        axis.set_visible(False)
    for axis, run in zip(axes.flat, ordered, strict=False):
        for name, curve in curves.items():
            if name not in (run.name, baseline):
                axis.plot(range(1, len(curve) + 1), curve, color=_OTHERS, linewidth=0.8)
        reference = curves[baseline]
        axis.plot(range(1, len(reference) + 1), reference, color=_BASELINE, linewidth=1.2, linestyle="--")
        axis.plot(range(1, len(curves[run.name]) + 1), curves[run.name], color=_OWN, linewidth=2)
        axis.set_title(f"{run.name}   {run.heldout_loss:.2f}", fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, labelbottom=True)
    highest = max(run.losses[0] for run in ordered)
    lowest = min(min(curve) for curve in curves.values())
    axes[0][0].set_ylim(lowest - 0.15, highest + 0.15)
    figure.supxlabel("step", fontsize=10)
    figure.supylabel("training loss, nats per byte", fontsize=10)
    figure.suptitle(
        f"Each optimizer (solid), {baseline} (dashed), the others (grey); the number is the held-out loss",
        fontsize=11,
        x=0.02,
        ha="left",
    )
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _smooth(losses: Sequence[float], weight: float = 0.8) -> list[float]:
    """Return the exponential moving average, so that a curve shows its trend and not its batches."""
    smoothed: list[float] = []
    for loss in losses:
        smoothed.append(loss if not smoothed else weight * smoothed[-1] + (1 - weight) * loss)
    return smoothed
