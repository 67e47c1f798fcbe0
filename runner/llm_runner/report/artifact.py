"""The report that lies in an artifact beside the weights: metrics, loss curve, its plot and the model card."""

from collections.abc import Sequence
from pathlib import Path

from llm_runner.report.card import CARD_NAME, CardInfo, build_card, build_untrained_card
from llm_runner.report.curve import CURVE_NAME, CurvePoint, save_curve
from llm_runner.report.metrics_file import METRICS_NAME, RunMetrics, UntrainedMetrics, save_metrics
from llm_runner.report.plot import PLOT_NAME, save_plot
from llm_runner.report.sample import Sample, save_sample


def save_report(
    folder: Path, info: CardInfo, metrics: RunMetrics, curve: Sequence[CurvePoint], sample: Sample | None = None
) -> None:
    """Writes metrics.json, loss_curve.csv, loss_curve.png, README.md and the answers of ``sample``; replaces those that
    PEFT may have left.
    """
    if sample is not None:
        save_sample(folder, sample)
    save_metrics(folder / METRICS_NAME, metrics)
    save_curve(folder / CURVE_NAME, curve)
    title = f"{info.name}: {info.method} on {info.base_model}"
    unit = "nats per target token" if info.preference is None else f"{info.preference}, mean of pairs"
    save_plot(folder / PLOT_NAME, curve, title, unit)
    (folder / CARD_NAME).write_text(build_card(info, metrics), encoding="utf-8")


def save_untrained_report(folder: Path, info: CardInfo, metrics: UntrainedMetrics) -> None:
    """Writes metrics.json and README.md of a run that trains nothing."""
    save_metrics(folder / METRICS_NAME, metrics)
    (folder / CARD_NAME).write_text(build_untrained_card(info, metrics), encoding="utf-8")
