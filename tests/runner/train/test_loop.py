"""The loop with a learner that only notes: which rows, at which rates, and when it evaluates, saves and stops."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import pytest
import torch
from llm_runner.errors import Diverged, Stopped
from llm_runner.train.batch import Row
from llm_runner.train.evaluate import Evaluation, Sums
from llm_runner.train.learner import StepResult
from llm_runner.train.loop import Loop, LoopPlan
from llm_runner.train.loss import TokenLoss
from llm_runner.train.plateau import Plateau
from llm_runner.train.state import LoopState

from tests.support.rows import TokenRows, make_row

ROWS = TokenRows([make_row([0, number], 1) for number in range(10)])
HOLD_OUT = TokenRows([make_row([0, 0], 1), make_row([0, 0], 1)])
PLAN = LoopPlan(total_steps=9, rows_per_step=4, learning_rate=0.1, steps_per_round=3)


@dataclass
class NotingLearner:
    """Notes what it is given; its hold-out loss follows a list, evaluation by evaluation."""

    hold_out_losses: Sequence[float] = (5.0, 4.0, 3.0)
    rows: list[list[int]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    evaluations: int = 0
    tokens_per_forward: int = 100
    model: torch.nn.Module = field(default_factory=torch.nn.Module)
    pads: bool = False

    def take_step(self, rows: Sequence[Row], learning_rate: float, step: int) -> StepResult:
        assert step == len(self.rates)
        self.rows.append([int(row.token_ids[1]) for row in rows])
        self.rates.append(learning_rate)
        sums = Sums(token_loss=float(10 - step) * len(rows), targets=len(rows), correct=step % 2)
        return StepResult(sums, tokens=2 * len(rows))

    @property
    def forward(self) -> "NotingLearner":
        return self

    def __call__(self, rows: Sequence[Row]) -> TokenLoss:
        loss = self.hold_out_losses[min(self.evaluations, len(self.hold_out_losses) - 1)]
        self.evaluations += 1
        return TokenLoss(torch.tensor(loss * len(rows)), len(rows), 0)


@dataclass
class NotingListener:
    events: list[str] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)

    def stepped(self, state: LoopState) -> None:
        self.events.append(f"step {state.step}")

    def evaluated(self, state: LoopState, hold_out: Evaluation, training: Evaluation | None) -> None:
        self.events.append(f"evaluated {state.step}: {hold_out.loss:g}" + ("" if training is None else " and rows"))

    def grew(self, state: LoopState) -> None:
        self.events.append(f"grew to {state.rows_per_step}")

    def save(self, state: LoopState) -> None:
        self.events.append(f"saved {state.step}")
        self.states.append(state.state_dict())


@dataclass
class Fitted:
    learner: NotingLearner
    listener: NotingListener
    state: LoopState


def build_loop(learner: NotingLearner, listener: NotingListener, plan: LoopPlan, **options: Any) -> Loop:
    given: dict[str, Any] = {
        "train_rows": ROWS,
        "hold_out": HOLD_OUT,
        "factor": lambda step: 1.0,
        "plateau": Plateau(most_changes=0, patience=0, rate=0.5),
        "growth": Plateau(most_changes=0, patience=0, rate=2.0),
        "should_stop": lambda: False,
    }
    return Loop(learner=learner, listener=listener, plan=plan, **{**given, **options})  # type: ignore[arg-type]


def fit(plan: LoopPlan = PLAN, losses: Sequence[float] = (5.0, 4.0, 3.0), **options: Any) -> Fitted:
    fitted = Fitted(NotingLearner(losses), NotingListener(), LoopState())
    build_loop(fitted.learner, fitted.listener, plan, **options).fit(fitted.state)
    return fitted


def changed(**changes: Any) -> LoopPlan:
    return LoopPlan(**{**vars(PLAN), **changes})


@pytest.mark.proves("trainer.epochs", "trainer.should_shuffle")
def test_each_epoch_is_every_row_once_in_an_order_of_its_own() -> None:
    rows = fit().learner.rows
    assert [len(step) for step in rows] == [4, 4, 2] * 3
    epochs = [list(chain(*rows[start : start + 3])) for start in (0, 3, 6)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_same_seed_is_the_same_order_and_another_is_not() -> None:
    assert fit().learner.rows == fit().learner.rows
    assert fit(changed(seed=1)).learner.rows != fit().learner.rows


@pytest.mark.proves("trainer.should_shuffle")
def test_without_shuffling_rows_come_as_they_are() -> None:
    assert fit(changed(shuffles=False)).learner.rows[:3] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.proves("trainer.steps_per_checkpoint", "trainer.checkpoints_per_epoch")
def test_an_evaluation_and_a_checkpoint_stand_at_the_end_of_each_round() -> None:
    assert fit(changed(total_steps=5)).listener.events == [
        "step 1",
        "step 2",
        "step 3",
        "evaluated 3: 5",
        "saved 3",
        "step 4",
        "step 5",
        "evaluated 5: 4",
        "saved 5",
    ]


def test_checkpoints_by_step_come_besides_and_none_twice() -> None:
    events = fit(changed(steps_per_checkpoint=2, total_steps=6)).listener.events
    assert [event for event in events if event.startswith("saved")] == ["saved 2", "saved 3", "saved 4", "saved 6"]


@pytest.mark.proves("trainer.skip_all_evaluation")
def test_without_a_hold_out_or_where_it_is_not_wanted_nothing_is_evaluated() -> None:
    for fitted in (fit(hold_out=TokenRows([])), fit(changed(evaluates=False))):
        assert not any("evaluated" in event for event in fitted.listener.events)
        assert fitted.state.best_step is None


@pytest.mark.proves("trainer.evaluate_training_set")
def test_training_rows_are_evaluated_where_asked() -> None:
    assert "evaluated 3: 5 and rows" in fit(changed(evaluates_training_rows=True)).listener.events


def test_the_best_step_is_the_one_of_the_lowest_hold_out_loss() -> None:
    assert fit(losses=(5.0, 2.0, 3.0)).state.best_step == 6
    assert fit(losses=(5.0, 4.0, 3.0)).state.best_step == 9
    assert fit(losses=(5.0, 5.0, 5.0)).state.best_step == 3


@dataclass
class TornLearner(NotingLearner):
    """Its hold-out loss falls while its accuracy falls, too."""

    def __call__(self, rows: Sequence[Row]) -> TokenLoss:
        found = super().__call__(rows)
        return TokenLoss(found.loss_sum, 10 * found.targets, 10 - self.evaluations)


@pytest.mark.proves("trainer.validation_metric")
@pytest.mark.parametrize(("metric", "best"), [("loss", 9), ("perplexity", 9), ("next_token_accuracy", 3)])
def test_the_best_step_is_the_best_by_the_metric_that_is_watched(metric: str, best: int) -> None:
    learner, listener, state = TornLearner(), NotingListener(), LoopState()
    build_loop(learner, listener, changed(metric=metric)).fit(state)
    assert state.best_step == best


def test_the_curve_holds_each_step_and_the_hold_outs_loss_where_there_is_one() -> None:
    curve = fit().state.curve
    assert [point.step for point in curve] == list(range(1, 10))
    assert [point.eval_loss for point in curve] == [None, None, 5.0, None, None, 4.0, None, None, 3.0]
    assert [round(point.epoch, 3) for point in curve[:3]] == [0.333, 0.667, 1.0]


@pytest.mark.proves("trainer.early_stop")
@pytest.mark.parametrize(("patience", "last"), [(1, 9), (2, 12), (3, 15), (-1, 30), (0, 30)])
def test_it_stops_early_after_so_many_rounds_without_a_better_value(patience: int, last: int) -> None:
    plan = changed(total_steps=30, early_stop_rounds=patience)
    fitted = fit(plan, losses=(5.0, 4.0, 4.5, 4.4, 4.3, 4.2, 4.1))
    assert (fitted.state.step, fitted.state.stopped_early) == (last, last < 30)
    assert fitted.listener.events[-1] == f"saved {last}"


@pytest.mark.proves("trainer.learning_rate", "trainer.learning_rate_scheduler.reduce_eval_split")
def test_the_rate_is_the_schedules_times_the_plateaus() -> None:
    plateau = Plateau(most_changes=9, patience=0, rate=0.5, watches_training=False)
    fitted = fit(losses=(5.0, 6.0, 7.0), factor=lambda step: 1.0 + step, plateau=plateau)
    expected = [0.1 * (1 + step) * (0.5 if step >= 6 else 1.0) for step in range(9)]
    assert fitted.learner.rates == pytest.approx(expected)


@pytest.mark.proves(
    "trainer.learning_rate_scheduler.reduce_eval_metric", "trainer.learning_rate_scheduler.reduce_eval_split"
)
@pytest.mark.parametrize(("metric", "changes"), [("loss", 0), ("perplexity", 0), ("next_token_accuracy", 1)])
def test_a_plateau_may_watch_the_training_of_the_round_by_any_metric(metric: str, changes: int) -> None:
    """Training loss falls with each step here; accuracy rises from the first round to the second, then falls."""
    plateau = Plateau(most_changes=9, patience=0, rate=0.5, metric=metric)
    fit(plateau=plateau)
    assert plateau.changes == changes


def test_the_rounds_own_training_loss_is_per_target_token() -> None:
    plateau = Plateau(most_changes=0, patience=0, rate=0.5)
    fit(changed(total_steps=3), plateau=plateau)
    assert plateau.best == pytest.approx((10 * 4 + 9 * 4 + 8 * 2) / 10)


GROWING = LoopPlan(
    total_steps=15, epochs=5, rows_per_step=4, learning_rate=0.1, steps_per_round=3, rounds_by_epoch=True
)


def growth(most: int = 9, patience: int = 0, metric: str = "loss") -> Plateau:
    return Plateau(most_changes=most, patience=patience, rate=1.5, metric=metric, watches_training=False)


@pytest.mark.proves("trainer.increase_batch_size_on_plateau", "trainer.increase_batch_size_on_plateau_rate")
def test_batches_grow_when_nothing_gets_better_and_the_run_is_over_in_fewer_steps() -> None:
    fitted = fit(GROWING, losses=(5.0, 5.0, 4.0, 4.0), growth=growth())
    assert [len(rows) for rows in fitted.learner.rows] == [4, 4, 2, 4, 4, 2, 6, 4, 6, 4, 9, 1]
    assert [event for event in fitted.listener.events if "grew" in event] == ["grew to 6", "grew to 9", "grew to 10"]
    assert (fitted.state.step, fitted.state.total_steps, fitted.state.epoch) == (12, 12, 5)


@pytest.mark.proves("trainer.increase_batch_size_on_plateau", "trainer.increase_batch_size_on_plateau_patience")
@pytest.mark.parametrize(("most", "patience", "expected"), [(1, 0, 6), (9, 1, 6), (9, 3, 4), (0, 0, 4)])
def test_batches_grow_so_often_only_and_after_so_many_evaluations(most: int, patience: int, expected: int) -> None:
    fitted = fit(GROWING, losses=(5.0, 5.0, 5.0, 5.0), growth=growth(most, patience))
    sizes = [len(rows) for rows in fitted.learner.rows]
    assert max(sizes) == expected
    assert sum(sizes) == 50


@pytest.mark.proves("trainer.increase_batch_size_eval_metric", "trainer.increase_batch_size_eval_split")
@pytest.mark.parametrize("split", [False, True], ids=["hold-out", "training"])
@pytest.mark.parametrize(("metric", "grows"), [("loss", False), ("next_token_accuracy", True)])
def test_growth_watches_the_metric_and_the_rows_that_it_is_told_to(metric: str, split: bool, grows: bool) -> None:
    """Both losses fall from round to round here; accuracy falls on the hold-out, and at times in training."""
    watching = Plateau(most_changes=9, patience=0, rate=2.0, metric=metric, watches_training=split)
    learner = TornLearner(hold_out_losses=(5.0, 4.0, 3.0, 2.0, 1.0))
    build_loop(learner, NotingListener(), GROWING, growth=watching).fit(LoopState())
    assert (watching.changes > 0) is grows


def test_a_schedule_ends_with_the_rows_also_where_batches_grow() -> None:
    fitted = fit(GROWING, losses=(5.0,), growth=growth(), factor=lambda step: 1.0 + step)
    assert fitted.learner.rates[:7] == pytest.approx([0.1 * (1 + step) for step in range(7)])
    assert len(fitted.learner.rows[-1]) == 10, (
        "an epoch in one step, which begins where 12 of the 15 steps would be over"
    )
    assert fitted.learner.rates[-1] == pytest.approx(0.1 * 13)


@pytest.mark.proves("trainer.max_batch_size")
def test_batches_grow_to_the_most_rows_of_a_step_and_no_further() -> None:
    plan = LoopPlan(**{**vars(GROWING), "most_rows_per_step": 5})
    fitted = fit(plan, losses=(5.0,), growth=growth())
    assert max(len(rows) for rows in fitted.learner.rows) == 5
    assert [event for event in fitted.listener.events if "grew" in event] == ["grew to 5"]


@pytest.mark.parametrize("calls", range(1, 20, 2))
def test_a_loop_whose_batches_grow_goes_on_as_if_it_had_not_been_stopped(calls: int) -> None:
    losses = (5.0, 5.0, 4.0, 4.0)
    whole = fit(GROWING, losses, growth=growth())
    stopped, first = Fitted(NotingLearner(losses), NotingListener(), LoopState()), growth()
    with pytest.raises(Stopped):
        build_loop(stopped.learner, stopped.listener, GROWING, growth=first, should_stop=stop_after(calls)).fit(
            stopped.state
        )
    second = growth()
    second.load_state_dict(first.state_dict())
    state = LoopState.from_state_dict(stopped.listener.states[-1])
    build_loop(stopped.learner, stopped.listener, GROWING, growth=second).fit(state)
    assert stopped.learner.rows == whole.learner.rows
    assert stopped.learner.rates == whole.learner.rates


def stop_after(calls: int) -> Callable[[], bool]:
    remaining = iter(range(calls))
    return lambda: next(remaining, None) is None


@pytest.mark.parametrize("calls", range(15))
def test_a_loop_that_was_stopped_anywhere_goes_on_as_if_it_had_not(calls: int) -> None:
    """Also in the middle of an evaluation, which is then done first."""
    whole = fit()
    stopped = Fitted(NotingLearner(), NotingListener(), LoopState())
    with pytest.raises(Stopped, match=r"stopped after step \d of 9; a checkpoint is saved"):
        build_loop(stopped.learner, stopped.listener, PLAN, should_stop=stop_after(calls)).fit(stopped.state)
    assert stopped.listener.events[-1] == f"saved {stopped.state.step}"
    state = LoopState.from_state_dict(stopped.listener.states[-1])
    build_loop(stopped.learner, stopped.listener, PLAN).fit(state)
    assert stopped.learner.rows == whole.learner.rows
    told = [event for event in stopped.listener.events if not event.startswith("saved")]
    assert told == [event for event in whole.listener.events if not event.startswith("saved")]
    assert (state.best_step, state.round_ended_at) == (9, 9)
    assert [point.eval_loss for point in state.curve] == [point.eval_loss for point in whole.state.curve]


def test_a_loop_that_is_done_is_not_stopped_any_more() -> None:
    state = fit().state
    build_loop(NotingLearner(), NotingListener(), PLAN, should_stop=lambda: True).fit(state)
    assert state.step == 9


def test_a_hold_out_loss_that_is_no_number_ends_the_run() -> None:
    with pytest.raises(Diverged, match=r"the hold-out loss became nan at step 3 with learning rate 0\.1"):
        fit(losses=(math.nan,))


def test_tokens_per_second_are_those_of_training_alone() -> None:
    state = fit().state
    assert state.tokens == 2 * 30
    assert state.tokens_per_second == pytest.approx(60 / state.train_seconds)
