"""Where a run stands: all that the loop must know of the past, as it is counted and as a checkpoint holds it."""

import math
from dataclasses import dataclass, field
from typing import Any

from llm_runner.train.curve import CurvePoint, curve_to_tensor, tensor_to_curve
from llm_runner.train.evaluate import Evaluation, Sums
from llm_runner.train.learner import StepResult


@dataclass
class LoopState:
    """Where a run stands."""

    step: int = 0
    epoch: int = 0
    row: int = 0
    """In the epoch's order, where the next step begins."""
    rows_per_step: int = 0
    """Of the next step."""
    total_steps: int = 0
    """As far as is known yet: batches that grow make it fewer."""
    tokens: int = 0
    train_seconds: float = 0.0
    best_value: float = math.inf
    """Best metric so far, turned so that lower is better."""
    best_step: int | None = None
    rounds_without_better: int = 0
    resumed_from_step: int | None = None
    """The step of the checkpoint that this process went on from; None: from the beginning."""
    stopped_early: bool = False
    base_loss: float | None = None
    """Of the hold-out before the first step."""
    tokens_per_forward: int | None = None
    """What was found to fit into memory; None: nothing was tried. A resumed run is cut as it began."""
    round_ended_at: int = 0
    """The step after which the newest round ended, all of its work done."""
    rounds: int = 0
    """Rounds that have ended."""
    round_sums: Sums = field(default_factory=Sums)
    """Over the steps of the round."""
    curve: list[CurvePoint] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """The curve as one tensor, so that a long run's checkpoints stay quick to write."""
        return {**vars(self), "curve": curve_to_tensor(self.curve), "round_sums": dict(vars(self.round_sums))}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "LoopState":
        return cls(**{**state, "curve": tensor_to_curve(state["curve"]), "round_sums": Sums(**state["round_sums"])})

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.train_seconds if self.train_seconds else 0.0

    def add(self, result: StepResult, seconds: float) -> None:
        """Counts one more optimizer step."""
        self.step += 1
        self.tokens += result.tokens
        self.train_seconds += seconds
        self.round_sums.extend(result.sums)

    def training_of_round(self) -> Evaluation:
        """The round's own figures, of the weights as they were at each step."""
        return self.round_sums.to_evaluation()

    def end_round(self, rounds: int) -> None:
        self.round_ended_at, self.rounds = self.step, rounds
        self.round_sums = Sums()
