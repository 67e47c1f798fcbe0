"""The loss curve as the loop makes it, and as a checkpoint holds it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class CurvePoint:
    """One row of the loss curve."""

    step: int
    epoch: float
    learning_rate: float
    train_loss: float
    tokens_per_second: float
    eval_loss: float | None = None


def curve_to_tensor(curve: Sequence[CurvePoint]) -> torch.Tensor:
    """One row a step, one column a field; NaN where there was no evaluation."""
    rows = [[math.nan if value is None else value for value in vars(point).values()] for point in curve]
    return torch.tensor(rows, dtype=torch.float64)


def tensor_to_curve(rows: torch.Tensor) -> list[CurvePoint]:
    curve = (CurvePoint(*values) for values in rows.tolist())
    return [
        replace(point, step=int(point.step), eval_loss=None if math.isnan(point.eval_loss or 0.0) else point.eval_loss)
        for point in curve
    ]
