"""The loss of a run as a picture. Uses no window system and none of matplotlib's global state."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

from llm_runner.report.curve import CurvePoint

PLOT_NAME = "loss_curve.png"
SMOOTHED_FRACTION = 0.08
"""The smoothed line averages over this part of the run, weighted: half of it counts."""
LEAST_STEPS_TO_SMOOTH = 20
TRAIN_COLOUR, HOLD_OUT_COLOUR = "#2563eb", "#d9480f"


def save_plot(path: Path, curve: Sequence[CurvePoint], title: str, unit: str = "nats per target token") -> None:
    """A PNG of 1280 x 720 pixels: training loss of each step, thin and smoothed, and the hold-out's loss."""
    # Only here, since a server reads artifacts and draws none.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    _plot_training(axes, curve)
    _plot_hold_out(axes, curve)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(f"loss ({unit})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if curve:
        axes.legend(frameon=False)
    figure.savefig(path, format="png")


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Mean over ``window`` values around each one, weighted by a bell; at the ends over those that are there."""
    weights = np.hanning(window + 2)[1:-1]
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")


def _plot_training(axes: "Axes", curve: Sequence[CurvePoint]) -> None:
    steps, losses = [point.step for point in curve], [point.train_loss for point in curve]
    if len(curve) < LEAST_STEPS_TO_SMOOTH:
        axes.plot(steps, losses, color=TRAIN_COLOUR, marker=".", label="training")
        return
    axes.plot(steps, losses, color=TRAIN_COLOUR, alpha=0.3, linewidth=0.8, label="training, each step")
    window = max(5, round(len(curve) * SMOOTHED_FRACTION))
    axes.plot(steps, smooth(losses, window), color=TRAIN_COLOUR, linewidth=2, label="training, smoothed")


def _plot_hold_out(axes: "Axes", curve: Sequence[CurvePoint]) -> None:
    points = [(point.step, point.eval_loss) for point in curve if point.eval_loss is not None]
    if not points:
        return
    steps, losses = zip(*points, strict=True)
    axes.plot(steps, losses, color=HOLD_OUT_COLOUR, marker="o", linewidth=1.2, label="hold-out")
    last = points[-1]
    axes.annotate(f"{last[1]:.3f}", last, (6, 6), textcoords="offset points", color=HOLD_OUT_COLOUR)
