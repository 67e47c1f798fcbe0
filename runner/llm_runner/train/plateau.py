"""Notices that a metric has stopped getting better, and counts what is to be done about it.

The only parts of a schedule that depend on what happened: how often the learning rate was lowered, and how often the
batch has grown. Both are saved with the run.
"""

import math
from dataclasses import dataclass
from typing import Any

from llm_runner.train.evaluate import Evaluation, metric_value


@dataclass
class Plateau:
    """Counts changes, each after ``patience`` evaluations without a better value and one more."""

    most_changes: int
    patience: int
    rate: float
    """What each change multiplies by."""
    metric: str = "loss"
    watches_training: bool = True
    """Else the hold-out, where there is one."""
    best: float = math.inf
    """So far, turned so that lower is better."""
    waited: int = 0
    changes: int = 0

    @property
    def factor(self) -> float:
        return self.rate**self.changes

    def observe(self, training: Evaluation, hold_out: Evaluation | None) -> bool:
        """Takes a round's figures; returns whether they made for one more change."""
        watched = training if self.watches_training or hold_out is None else hold_out
        value = metric_value(watched, self.metric)
        if value < self.best:
            self.best, self.waited = value, 0
            return False
        self.waited += 1
        changes = self.waited > self.patience and self.changes < self.most_changes
        if changes:
            self.changes, self.waited = self.changes + 1, 0
        return changes

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "changes": self.changes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited, self.changes = state["best"], state["waited"], state["changes"]
