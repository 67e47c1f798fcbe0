"""How far a run is: the newest report as a status shows it, and the loss over the run in few points.

The curve grows by one point at a time and lives in the status, so it outlasts a restart of the operator. Reports that
never come leave it as it is; nothing waits for them.
"""

import math
from collections.abc import Sequence

from llm_api.finetune import MAX_LOSS_POINTS, LossPoint, ProgressStatus
from llm_api.report import Progress

from llm_operator.status.durations import format_seconds

LOSS_DIGITS = 4
"""Decimals of a loss in a status; all of them stand in the artifact's loss_curve.csv."""


def to_progress_status(progress: Progress) -> ProgressStatus:
    eta = progress.eta_seconds
    return ProgressStatus(
        step=progress.step,
        of=progress.of,
        epoch=progress.epoch if math.isfinite(progress.epoch) else 0.0,
        percent=f"{progress.percent}%" if progress.of > 0 else None,
        loss=_rounded(progress.loss),
        tokens_per_second=_rounded(progress.tokens_per_second, digits=1),
        eta=None if eta is None or not math.isfinite(eta) else format_seconds(eta),
    )


def extend_curve(curve: Sequence[LossPoint], progress: Progress) -> list[LossPoint]:
    """The curve with the newest report's point, at most MAX_LOSS_POINTS long.

    A run that resumed from an earlier step goes over its later points again: they are dropped. The newest point is
    provisional until the next one is far enough away, so that the curve's end is always the run's.
    """
    kept = [point for point in curve if point.step < progress.step]
    loss = _rounded(progress.loss)
    if loss is None or progress.step == 0:
        return list(curve)
    spacing = max(1, math.ceil(progress.of / (MAX_LOSS_POINTS - 2)))
    if len(kept) > 1 and kept[-1].step - kept[-2].step < spacing and not _is_measured(kept, progress):
        kept = kept[:-1]
    return thin_curve([*kept, LossPoint(step=progress.step, loss=loss, eval_loss=_rounded(progress.eval_loss))])


def thin_curve(curve: list[LossPoint]) -> list[LossPoint]:
    """Every second point but the ends, until few enough are left."""
    while len(curve) > MAX_LOSS_POINTS:
        curve = [*curve[:-1:2], curve[-1]]
    return curve


def _is_measured(kept: Sequence[LossPoint], progress: Progress) -> bool:
    """Whether the last point shows a measurement of the hold-out that the next one would replace."""
    last = kept[-1].eval_loss
    return last is not None and last != kept[-2].eval_loss and last != _rounded(progress.eval_loss)


def _rounded(value: float | None, digits: int = LOSS_DIGITS) -> float | None:
    """What people can read; None for what is no number."""
    return round(value, digits) if value is not None and math.isfinite(value) else None
