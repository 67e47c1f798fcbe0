"""How long rows are in tokens, as a picture. Uses no window system and none of matplotlib's global state."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BARS = 40
COLOURS = {"prompt": "#2563eb", "answer": "#d9480f", "both": "#2b8a3e"}
MARKED_PERCENTILES = (50, 95, 100)


def save_length_plot(
    path: Path, lengths: Mapping[str, np.ndarray], limits: Mapping[str, int | None], title: str
) -> None:
    """A PNG of 1280 x 1120 pixels, a histogram below each other of what ``lengths`` holds.

    ``limits``: the most tokens that each may have; where there is one it is drawn as a line, if it is within reach.
    """
    figure = Figure(figsize=(8, 7), dpi=160, layout="constrained")
    for axes, (name, counts) in zip(figure.subplots(len(lengths), 1), lengths.items(), strict=True):
        _plot(axes, name, counts, limits.get(name))
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.savefig(path, format="png")


def _plot(axes: Axes, name: str, counts: np.ndarray, limit: int | None) -> None:
    longest = int(counts.max())
    axes.hist(counts, bins=min(BARS, max(longest, 1)), color=COLOURS.get(name, "grey"), alpha=0.8)
    for percent in MARKED_PERCENTILES:
        at = float(np.percentile(counts, percent))
        axes.axvline(at, color="grey", linewidth=0.8, linestyle=":")
        top = (at, 1.0)
        axes.annotate(f"{percent} %: {at:.0f}", top, (2, -9), ("data", "axes fraction"), "offset points", fontsize=7)
    if limit is not None and limit <= 2 * longest:
        axes.axvline(limit, color="black", linewidth=1.2, label=f"limit: {limit}")
        axes.legend(frameon=False, loc="center right")
    axes.set_xlabel(f"tokens of {name}")
    axes.set_ylabel("rows")
    axes.spines[["top", "right"]].set_visible(False)
