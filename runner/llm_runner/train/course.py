"""A run's way through its rows: which make the next step, how far it has come, how many steps are left.

Where a run stands is an epoch and a row in it, not a step alone, as batches may grow on the way. Pure; the order of an
epoch's rows is a function of the seed and the epoch.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch


@dataclass(frozen=True)
class Course:
    """Counts in optimizer steps, and in steps of the first size where rows count."""

    rows: int
    rows_per_step: int
    """Of the first step."""
    total_steps: int
    epochs: int | None
    """None: so many steps are taken, whatever rows that is; else total_steps is what they come to at the first size."""
    steps_per_round: int
    rounds_by_epoch: bool
    """Whether a round is a part of an epoch, whose steps get fewer when they grow; else it is so many steps."""

    def advance(self, epoch: int, row: int, rows_per_step: int) -> tuple[int, int]:
        """Epoch and row after one more step; the last step of an epoch takes what is left, so that all are seen."""
        row += rows_per_step
        return (epoch, row) if row < self.rows else (epoch + 1, 0)

    def first_sized_steps(self, epoch: int, row: int) -> int:
        """Steps that it would have taken to come here if none had grown."""
        return epoch * steps_per_epoch(self.rows, self.rows_per_step) + row // self.rows_per_step

    def scheduled_step(self, step: int, epoch: int, row: int) -> int:
        """Where in a schedule over ``total_steps`` the next step stands: it ends with the run, also if steps grow."""
        return step if self.epochs is None else self.first_sized_steps(epoch, row)

    def rounds(self, step: int, epoch: int, row: int) -> int:
        """Rounds that are complete."""
        return (self.first_sized_steps(epoch, row) if self.rounds_by_epoch else step) // self.steps_per_round

    def steps_left(self, step: int, epoch: int, row: int, rows_per_step: int) -> int:
        if self.epochs is None:
            return max(0, self.total_steps - step)
        if epoch >= self.epochs:
            return 0
        later_epochs = self.epochs - epoch - 1
        of_this_epoch = steps_per_epoch(self.rows - row, rows_per_step)
        return of_this_epoch + later_epochs * steps_per_epoch(self.rows, rows_per_step)


def steps_per_epoch(rows: int, rows_per_step: int) -> int:
    return math.ceil(rows / rows_per_step)


def grow_batch(rows_per_step: int, rate: float, times: int, most_rows: int) -> int:
    """Rows of a step that has grown so often: never fewer than before, never more than ``most_rows`` if it grows."""
    rows = rows_per_step
    for _ in range(times):
        rows = max(rows, min(math.ceil(rows * rate), most_rows))
    return rows


@lru_cache(maxsize=2)
def epoch_order(rows: int, seed: int, epoch: int, *, shuffles: bool) -> torch.Tensor:
    """Row numbers in the order of an epoch; a new permutation each, the same on every machine."""
    if not shuffles:
        return torch.arange(rows)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(rows, generator=generator)
