"""The training loop: which rows make a step, when to evaluate, when to save, when to stop.

Everything that depends on the past is in LoopState, and the order of rows is a function of the step: a loop that starts
from a saved state goes on exactly as if it had never stopped. Knows no files and no config models; saves and reports
through what it is given.
"""

import math
import time
from collections.abc import Callable, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from llm_runner.errors import Diverged, Stopped
from llm_runner.train.batch import Rows
from llm_runner.train.course import Course, epoch_order, grow_batch, steps_per_epoch
from llm_runner.train.curve import CurvePoint
from llm_runner.train.evaluate import Evaluation, StopAsked, evaluate, metric_value
from llm_runner.train.learner import Learner, describe_divergence
from llm_runner.train.plateau import Plateau
from llm_runner.train.ranks import ALONE, Ranks
from llm_runner.train.schedule import Factor
from llm_runner.train.state import LoopState


@dataclass(frozen=True)
class LoopPlan:
    """The numbers of a run; steps are optimizer steps."""

    total_steps: int
    """As long as no batch grows."""
    rows_per_step: int
    learning_rate: float
    steps_per_round: int
    """An evaluation and a checkpoint stand at the end of each round."""
    epochs: int | None = None
    """Passes over the rows after which to stop; None: after total_steps."""
    rounds_by_epoch: bool = False
    """Whether rounds are parts of epochs, which take fewer steps once batches have grown."""
    most_rows_per_step: int = 2**31
    """What batches may grow to."""
    steps_per_checkpoint: int | None = None
    """Further checkpoints, without an evaluation."""
    evaluates: bool = True
    metric: str = "loss"
    early_stop_rounds: int = -1
    """Rounds without a better metric after which to stop; -1: never."""
    most_evaluation_rows: int | None = None
    evaluates_training_rows: bool = False
    shuffles: bool = True
    seed: int = 0


class Listener(Protocol):
    """Who is told what the loop does, and keeps its checkpoints."""

    def stepped(self, state: LoopState) -> None: ...
    def evaluated(self, state: LoopState, hold_out: Evaluation, training: Evaluation | None) -> None: ...
    def grew(self, state: LoopState) -> None: ...
    def save(self, state: LoopState) -> None: ...


@dataclass(frozen=True)
class Loop:
    """The collaborators of a run; ``fit`` runs it to its end."""

    learner: Learner
    train_rows: Rows
    hold_out: Rows
    """May be empty: then nothing is evaluated."""
    plan: LoopPlan
    factor: Factor
    plateau: Plateau
    """Lowers the learning rate."""
    growth: Plateau
    """Makes batches larger."""
    listener: Listener
    should_stop: Callable[[], bool]
    ranks: Ranks = ALONE

    def fit(self, state: LoopState) -> None:
        """Trains from ``state.step`` on. Raises Stopped once asked to, after saving; Diverged on a loss of NaN."""
        self._look_ahead(state)
        try:
            while self._owes_round(state) or self._has_steps_left(state):
                if self.ranks.any(self.should_stop()):
                    raise StopAsked
                if self._owes_round(state):
                    self._end_round(state)
                else:
                    self._take_step(state)
        except StopAsked:
            self.listener.save(state)
            message = f"stopped after step {state.step} of {state.total_steps}; a checkpoint is saved"
            raise Stopped(message) from None

    def _has_steps_left(self, state: LoopState) -> bool:
        return state.step < state.total_steps and not state.stopped_early

    def _owes_round(self, state: LoopState) -> bool:
        """Whether the evaluation after the newest step is still to be done; it may have been broken off."""
        ends = self._rounds(state) > state.rounds or state.step == state.total_steps
        return ends and state.round_ended_at < state.step

    def _take_step(self, state: LoopState) -> None:
        scheduled = self.course.scheduled_step(state.step, state.epoch, state.row)
        rate = self.plan.learning_rate * self.factor(scheduled) * self.plateau.factor
        self.ranks.draw_apart(self.plan.seed, state.step)
        started = time.perf_counter()
        result = self.learner.take_step(self._next_rows(state), rate, state.step)
        seconds = time.perf_counter() - started
        state.add(result, seconds)
        state.epoch, state.row = self.course.advance(state.epoch, state.row, state.rows_per_step)
        epoch = state.epoch + self._share_of_epoch(state)
        state.curve.append(CurvePoint(state.step, epoch, rate, result.loss, result.tokens / seconds))
        self.listener.stepped(state)
        if self._is_checkpoint(state.step) and not self._owes_round(state):
            self.listener.save(state)

    def _next_rows(self, state: LoopState) -> list[Sized]:
        """This process's part of the step's; the last step of an epoch may have none for it."""
        order = epoch_order(len(self.train_rows), self.plan.seed, state.epoch, shuffles=self.plan.shuffles)
        rows = order[state.row :][: state.rows_per_step].numpy()
        own = self.ranks.share(self._lengths[rows].tolist())
        return [self.train_rows.example(index) for index in rows[own].tolist()]

    @cached_property
    def _lengths(self) -> np.ndarray:
        return self.train_rows.lengths

    def _share_of_epoch(self, state: LoopState) -> float:
        """In steps, so that the last one counts as much as others though it may have fewer rows."""
        return state.row / (state.rows_per_step * steps_per_epoch(len(self.train_rows), state.rows_per_step))

    @cached_property
    def course(self) -> Course:
        plan = self.plan
        return Course(
            rows=len(self.train_rows),
            rows_per_step=plan.rows_per_step,
            total_steps=plan.total_steps,
            epochs=plan.epochs,
            steps_per_round=plan.steps_per_round,
            rounds_by_epoch=plan.rounds_by_epoch,
        )

    def _rounds(self, state: LoopState) -> int:
        return self.course.rounds(state.step, state.epoch, state.row)

    def _look_ahead(self, state: LoopState) -> None:
        """What follows from how often batches have grown."""
        most_rows = min(self.plan.most_rows_per_step, len(self.train_rows))
        rows = grow_batch(self.plan.rows_per_step, self.growth.rate, self.growth.changes, most_rows)
        state.rows_per_step = rows
        state.total_steps = state.step + self.course.steps_left(state.step, state.epoch, state.row, rows)

    def _is_checkpoint(self, step: int) -> bool:
        every = self.plan.steps_per_checkpoint
        return every is not None and step % every == 0

    def _end_round(self, state: LoopState) -> None:
        evaluates = self.plan.evaluates and len(self.hold_out) > 0
        hold_out = self._evaluate(state) if evaluates else None
        training = state.training_of_round()
        self.plateau.observe(training, hold_out)
        grows = self.growth.observe(training, hold_out)
        state.end_round(self._rounds(state))
        if grows:
            self._grow(state)
        self.listener.save(state)

    def _grow(self, state: LoopState) -> None:
        before = state.rows_per_step
        self._look_ahead(state)
        if state.rows_per_step > before:
            self.listener.grew(state)

    def _evaluate(self, state: LoopState) -> Evaluation:
        hold_out = self._evaluation_of(self.hold_out)
        training = self._evaluation_of(self.train_rows) if self.plan.evaluates_training_rows else None
        point = state.curve[-1]
        if not math.isfinite(hold_out.loss):
            raise Diverged(describe_divergence("hold-out loss", hold_out.loss, state.step - 1, point.learning_rate))
        state.curve[-1] = replace(point, eval_loss=hold_out.loss)
        value = metric_value(hold_out, self.plan.metric)
        if value < state.best_value:
            state.best_value, state.best_step, state.rounds_without_better = value, state.step, 0
        else:
            state.rounds_without_better += 1
            state.stopped_early = 0 < self.plan.early_stop_rounds <= state.rounds_without_better
        self.listener.evaluated(state, hold_out, training)
        return hold_out

    def _evaluation_of(self, rows: Rows) -> Evaluation:
        self.learner.model.eval()
        return evaluate(
            self.learner.forward,
            rows,
            tokens_per_forward=self.learner.tokens_per_forward,
            most_rows=self.plan.most_evaluation_rows,
            should_stop=self.should_stop,
            ranks=self.ranks,
        )
