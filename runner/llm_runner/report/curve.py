"""The loss curve of a run as a table that spreadsheets and scripts read."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

CURVE_NAME = "loss_curve.csv"
COLUMNS = ("step", "epoch", "learning_rate", "train_loss", "eval_loss", "tokens_per_second")


class CurvePoint(Protocol):
    """One optimizer step."""

    @property
    def step(self) -> int:
        """Counted from 1."""

    @property
    def epoch(self) -> float: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def train_loss(self) -> float: ...
    @property
    def eval_loss(self) -> float | None:
        """None for steps without an evaluation."""

    @property
    def tokens_per_second(self) -> float: ...


def save_curve(path: Path, curve: Iterable[CurvePoint]) -> None:
    """One line a step; numbers in full, and nothing where there was no evaluation."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([getattr(point, name) for name in COLUMNS] for point in curve)
