"""From the config's trainer section and the number of rows to the loop's numbers. Pure; loads nothing."""

import math
from dataclasses import dataclass

from llm_api.config import TuningTrainer

from llm_runner.train.course import steps_per_epoch
from llm_runner.train.learner import Clipping
from llm_runner.train.loop import LoopPlan
from llm_runner.train.plateau import Plateau
from llm_runner.train.schedule import Horizon

CPU_TOKENS_PER_FORWARD = 1024
"""More does not make a CPU faster, less does not pay for a 4-bit layer's dequantization; memory grows with it."""
MIN_CUDA_TOKENS_PER_FORWARD = 1024
MAX_CUDA_TOKENS_PER_FORWARD = 16384
UNBOUNDED = 2**31


@dataclass(frozen=True)
class RunSize:
    """What the plan must know of the data."""

    train_rows: int
    longest_row_tokens: int
    train_tokens: int = UNBOUNDED
    """Of all rows that train, where that is known."""


def plan_loop(
    trainer: TuningTrainer, size: RunSize, *, checkpoint_every: int | None, seed: int, ranks: int = 1
) -> LoopPlan:
    """``checkpoint_every`` is the resource's own setting, in optimizer steps, besides the config's rounds.

    ``ranks``: processes that share the rows of each step. Only where the config leaves the rows open do they count.
    """
    rows_per_step = trainer.rows_per_step()
    if trainer.leaves_rows_open:
        rows_per_step = math.ceil(rows_per_step / ranks) * ranks
    per_epoch = steps_per_epoch(size.train_rows, rows_per_step)
    total = trainer.epochs * per_epoch if trainer.train_steps is None else trainer.train_steps
    return LoopPlan(
        total_steps=total,
        rows_per_step=rows_per_step,
        learning_rate=_peak_rate(trainer),
        steps_per_round=_steps_per_round(trainer, per_epoch),
        epochs=trainer.epochs if trainer.train_steps is None else None,
        rounds_by_epoch=trainer.steps_per_checkpoint == 0,
        most_rows_per_step=_most_rows_per_step(trainer),
        steps_per_checkpoint=checkpoint_every,
        evaluates=not trainer.skip_all_evaluation,
        metric=_metric(trainer),
        early_stop_rounds=trainer.early_stop,
        most_evaluation_rows=_most_evaluation_rows(trainer),
        evaluates_training_rows=trainer.evaluate_training_set,
        shuffles=trainer.should_shuffle,
        seed=seed,
    )


def plan_horizon(plan: LoopPlan) -> Horizon:
    return Horizon(plan.total_steps, plan.steps_per_round, plan.learning_rate)


def plan_plateau(trainer: TuningTrainer) -> Plateau:
    scheduler = trainer.learning_rate_scheduler
    return Plateau(
        most_changes=scheduler.reduce_on_plateau,
        patience=scheduler.reduce_on_plateau_patience,
        rate=scheduler.reduce_on_plateau_rate,
        metric=scheduler.reduce_eval_metric,
        watches_training=scheduler.reduce_eval_split == "training",
    )


def plan_growth(trainer: TuningTrainer) -> Plateau:
    return Plateau(
        most_changes=trainer.increase_batch_size_on_plateau,
        patience=trainer.increase_batch_size_on_plateau_patience,
        rate=trainer.increase_batch_size_on_plateau_rate,
        metric=trainer.increase_batch_size_eval_metric,
        watches_training=trainer.increase_batch_size_eval_split == "training",
    )


def plan_clipping(trainer: TuningTrainer) -> Clipping:
    clipping = trainer.gradient_clipping
    return Clipping(global_norm=clipping.clipglobalnorm, norm=clipping.clipnorm, value=clipping.clipvalue)


def plan_tokens_per_forward(trainer: TuningTrainer, size: RunSize, device_type: str) -> int:
    """A forward pass takes what ``batch_size`` rows take at most, within what the kind of device is good at."""
    if device_type == "cpu":
        return CPU_TOKENS_PER_FORWARD
    wanted = trainer.rows_per_forward() * size.longest_row_tokens
    return min(max(wanted, MIN_CUDA_TOKENS_PER_FORWARD), MAX_CUDA_TOKENS_PER_FORWARD)


def plan_sizes_to_try(trainer: TuningTrainer, size: RunSize, device_type: str) -> list[int]:
    """Tokens of a forward pass, rising from one row to what the device is good at, or to a whole step if that is less.

    Empty where the config says what goes through at a time.
    """
    if isinstance(trainer.batch_size, int):
        return []
    most = CPU_TOKENS_PER_FORWARD if device_type == "cpu" else MAX_CUDA_TOKENS_PER_FORWARD
    if trainer.increase_batch_size_on_plateau == 0:
        most = min(most, trainer.rows_per_step() * size.longest_row_tokens)
    if trainer.max_batch_size is not None:
        most = min(most, trainer.max_batch_size * size.longest_row_tokens)
    sizes = [size.longest_row_tokens]
    while sizes[-1] < most:
        sizes.append(min(2 * sizes[-1], most))
    return sizes


def plan_most_rows_per_forward(trainer: TuningTrainer) -> int | None:
    """``max_batch_size`` bounds what ``batch_size: auto`` lets through at a time; None is no bound but the tokens'."""
    return trainer.max_batch_size if trainer.batch_size == "auto" else None


def _most_rows_per_step(trainer: TuningTrainer) -> int:
    """A batch whose size is written grows to ``max_batch_size`` at most; else that bounds what goes through at a time,
    and a step may still take more of it.
    """
    if trainer.max_batch_size is None or not isinstance(trainer.batch_size, int):
        return UNBOUNDED
    return max(1, trainer.rows_per_step() // trainer.batch_size) * trainer.max_batch_size


def _peak_rate(trainer: TuningTrainer) -> float:
    """Adafactor alone has a rate of its own."""
    own = getattr(trainer.optimizer, "lr", None)
    return trainer.resolved_learning_rate() if own is None else float(own)


def _steps_per_round(trainer: TuningTrainer, per_epoch: int) -> int:
    if trainer.steps_per_checkpoint > 0:
        return trainer.steps_per_checkpoint
    return max(1, math.ceil(per_epoch / max(1, trainer.checkpoints_per_epoch)))


def _metric(trainer: TuningTrainer) -> str:
    return "loss" if trainer.validation_metric is None else trainer.validation_metric


def _most_evaluation_rows(trainer: TuningTrainer) -> int | None:
    """``eval_steps`` bounds an evaluation to so many batches of ``eval_batch_size`` rows."""
    if trainer.eval_steps is None:
        return None
    batch = trainer.eval_batch_size
    return max(1, int(trainer.eval_steps * (batch if isinstance(batch, int) else 1)))
