"""Loss, perplexity, next-token accuracy and rewards of some rows. Generates no text and trains nothing."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from llm_runner.train.batch import Rows, split_by_tokens
from llm_runner.train.forward import Forward
from llm_runner.train.loss import TokenLoss
from llm_runner.train.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Evaluation:
    """Figures over a table. Of pairs, those of tokens are of the chosen answers."""

    loss: float
    """What the trainer makes less: mean negative log-likelihood of a target token, in nats; or the mean of pairs."""
    next_token_accuracy: float
    """Fraction of targets that were the most likely token."""
    targets: int
    answer_loss: float | None = None
    """Of pairs: mean negative log-likelihood of a target token of the chosen answers, in nats."""
    reward_accuracy: float | None = None
    """Of pairs, where there is a reference: the fraction whose chosen answer has the larger reward."""
    reward_margin: float | None = None
    """Likewise: how much larger it is, in the mean."""

    @property
    def perplexity(self) -> float:
        nats = self.loss if self.answer_loss is None else self.answer_loss
        return math.exp(nats) if nats < 700.0 else math.inf


@dataclass
class Sums:
    """What an evaluation is made of, over the rows so far."""

    token_loss: float = 0.0
    targets: int = 0
    correct: int = 0
    pair_loss: float = 0.0
    pairs: int = 0
    margin: float = 0.0
    better: int = 0
    rewarded: int = 0
    """Pairs with rewards."""

    def add(self, part: TokenLoss) -> None:
        self.token_loss += part.loss_sum.item()
        self.targets += part.targets
        self.correct += part.correct
        if part.preference is None:
            return
        self.pair_loss += part.preference.loss_sum.item()
        self.pairs += part.preference.pairs
        if part.preference.margin_sum is not None:
            self.margin += part.preference.margin_sum
            self.better += part.preference.better
            self.rewarded += part.preference.pairs

    def extend(self, others: "Sums") -> None:
        for name, value in vars(others).items():
            setattr(self, name, getattr(self, name) + value)

    def over(self, ranks: Ranks) -> "Sums":
        """Those of all processes together."""
        totals = zip(vars(self).items(), ranks.total(list(vars(self).values())), strict=True)
        return Sums(**{name: type(value)(total) for (name, value), total in totals})

    def to_evaluation(self) -> Evaluation:
        answer_loss, accuracy = self.token_loss / self.targets, self.correct / self.targets
        if self.pairs == 0:
            return Evaluation(answer_loss, accuracy, self.targets)
        return Evaluation(
            self.pair_loss / self.pairs,
            accuracy,
            self.targets,
            answer_loss,
            reward_accuracy=self.better / self.rewarded if self.rewarded else None,
            reward_margin=self.margin / self.rewarded if self.rewarded else None,
        )


HIGHER_IS_BETTER = {"next_token_accuracy", "reward_accuracy", "reward_margin"}


def metric_value(evaluation: Evaluation, metric: str) -> float:
    """Turned so that lower is better."""
    found: float = getattr(evaluation, metric)
    return -found if metric in HIGHER_IS_BETTER else found


class StopAsked(Exception):
    """Work was broken off because the run was asked to stop."""


@runtime_checkable
class LooksAhead(Protocol):
    """A forward pass that wants to see all rows before it is given some of them."""

    def look_ahead(
        self, rows: Iterable[Any], /, most_tokens: int, should_stop: Callable[[], bool] = lambda: False
    ) -> None: ...


def evaluate(
    forward: Forward,
    rows: Rows,
    *,
    tokens_per_forward: int,
    most_rows: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Sums over all rows first and divides once: a mean over batches would weigh short answers too heavily.

    The model's training mode (dropout, NEFTune) must be off; that is the caller's, who owns the model. Each of
    ``ranks`` takes its part of the rows. Raises StopAsked once ``should_stop()`` is true in one of them.
    """
    places = ranks.deal(len(rows) if most_rows is None else min(most_rows, len(rows)))
    if isinstance(forward, LooksAhead):
        forward.look_ahead(map(rows.example, places), tokens_per_forward, should_stop)
    sums, is_stopped = Sums(), False
    with torch.no_grad():
        groups = split_by_tokens(map(rows.example, places), tokens_per_forward, pads=forward.pads)
        for group, counts in ranks.passes(groups, lambda: rows.example(0)):
            is_stopped = should_stop()
            if ranks.any(is_stopped) if ranks.share_layers else is_stopped:
                break
            part = forward(group)
            if counts:
                sums.add(part)
    if ranks.any(is_stopped):
        raise StopAsked
    return sums.over(ranks).to_evaluation()
