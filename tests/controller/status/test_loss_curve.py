"""The loss over a run in at most 64 points, and spans of time as people read them."""

import math
from itertools import pairwise

import pytest
from llm_api.finetune import MAX_LOSS_POINTS, LossPoint
from llm_api.report import Progress
from llm_operator.status.durations import format_seconds
from llm_operator.status.progress import extend_curve, to_progress_status


def report(step: int, of: int = 1000, loss: float | None = None, eval_loss: float | None = None) -> Progress:
    shown = 1 / step if loss is None and step > 0 else loss
    return Progress(phase="Training", step=step, of=of, loss=shown, eval_loss=eval_loss)


def curve_of(steps: range, of: int) -> list[LossPoint]:
    curve: list[LossPoint] = []
    for step in steps:
        curve = extend_curve(curve, report(step, of))
    return curve


@pytest.mark.parametrize("total", [1, 10, 64, 65, 1000, 5000])
def test_a_curve_spans_the_run_in_few_points_evenly_apart(total: int) -> None:
    curve = curve_of(range(1, total + 1), total)
    steps = [point.step for point in curve]
    assert len(curve) <= MAX_LOSS_POINTS
    assert steps[-1] == total
    gaps = [later - earlier for earlier, later in pairwise(steps)][:-1]
    assert max(gaps, default=1) <= max(1, 2 * total // MAX_LOSS_POINTS)


def test_a_curve_of_unknown_length_stays_short() -> None:
    curve = curve_of(range(1, 1000), 0)
    assert len(curve) <= MAX_LOSS_POINTS
    assert (curve[0].step, curve[-1].step) == (1, 999)


def test_steps_that_are_gone_over_again_replace_their_points() -> None:
    curve = extend_curve(curve_of(range(1, 11), 10), report(4, 10, loss=9.0))
    assert [point.step for point in curve] == [1, 2, 3, 4]
    assert curve[-1].loss == 9.0


def test_a_report_without_a_loss_changes_nothing() -> None:
    curve = curve_of(range(1, 4), 10)
    assert extend_curve(curve, Progress(phase="Preparing")) == curve
    assert extend_curve(curve, report(5, loss=math.nan)) == curve


def test_a_measurement_of_the_hold_out_stands_at_its_step() -> None:
    curve = extend_curve(curve_of(range(1, 11), 10), report(10, 10, loss=0.1, eval_loss=0.5))
    assert (curve[-1].step, curve[-1].eval_loss) == (10, 0.5)


def test_progress_of_unknown_length_has_no_percentage() -> None:
    status = to_progress_status(Progress(phase="Preparing", loss=math.inf))
    assert (status.percent, status.loss, status.eta) == (None, None, None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-3, "0s"),
        (45.4, "45s"),
        (60, "1m"),
        (720, "12m"),
        (3599, "59m"),
        (3600, "1h"),
        (12000, "3h20m"),
        (86400, "1d"),
        (187200, "2d4h"),
    ],
)
def test_spans_of_time_are_short(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
