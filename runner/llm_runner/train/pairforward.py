"""From pairs to their loss through a model: both sequences of a pair in one pass, each attending to itself alone.

What a method makes of them is ``preference``'s; which pairs make a step is the loop's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedModel

from llm_runner.data.pairs import Pair, PairRows
from llm_runner.train.batch import Row, count_targets, split_by_tokens
from llm_runner.train.evaluate import StopAsked
from llm_runner.train.forward import TokenForward
from llm_runner.train.loss import PreferenceLoss, TokenLoss
from llm_runner.train.preference import Answers, Kto, Method
from llm_runner.train.ranks import ALONE, Ranks


@dataclass
class PairForward:
    """Implements ``forward.Forward`` over pairs."""

    inner: TokenForward
    method: Method
    ranks: Ranks = ALONE

    @property
    def pads(self) -> bool:
        return self.inner.pads

    def __call__(self, pairs: Sequence[Pair]) -> TokenLoss:
        rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        scores = self.inner.scores(rows)
        chosen, rejected = self._answers(pairs, _sum_by_row(scores.log_probs, rows))
        own = count_targets(pair.chosen for pair in pairs)
        return TokenLoss(
            loss_sum=-scores.log_probs[:own].detach().sum(),
            targets=own,
            correct=int(scores.correct[:own].sum()),
            preference=self._compare(chosen, rejected),
        )

    def look_ahead(
        self, pairs: Iterable[Pair], most_tokens: int, should_stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Estimates KTO's divergence over all ``pairs`` at once, so that how they are cut into passes changes nothing;
        ``most_tokens`` go through the model at a time. Raises StopAsked once ``should_stop()`` is true.
        """
        if isinstance(self.method, Kto):
            divergence = self._measure_divergence(pairs, most_tokens, should_stop)
            self.method = replace(self.method, divergence=divergence)

    def _answers(self, pairs: Sequence[Pair], log_probs: torch.Tensor) -> tuple[Answers, Answers]:
        lengths = [count_targets([answer]) for place in (0, 1) for answer in (pair.sequences[place] for pair in pairs)]
        targets = torch.tensor(lengths, device=log_probs.device)
        reference = torch.from_numpy(np.stack([pair.reference for pair in pairs])).to(log_probs)
        chosen, rejected = (
            Answers(own, count, reference[:, place] if self.method.scores else None)
            for place, (own, count) in enumerate(zip(log_probs.chunk(2), targets.chunk(2), strict=True))
        )
        return chosen, rejected

    def _compare(self, chosen: Answers, rejected: Answers) -> PreferenceLoss:
        loss_sum, pairs = self.method.losses(chosen, rejected).sum(), len(chosen.log_probs)
        better, worse = self.method.rewards(chosen), self.method.rewards(rejected)
        if better is None or worse is None:
            return PreferenceLoss(loss_sum, pairs, None, 0)
        margins = (better - worse).detach()
        return PreferenceLoss(loss_sum, pairs, float(margins.sum()), int((margins > 0).sum()))

    def _measure_divergence(self, pairs: Iterable[Pair], most_tokens: int, should_stop: Callable[[], bool]) -> float:
        references: list[float] = []

        def sequences() -> Iterator[Row]:
            for pair in pairs:
                references.extend(pair.reference[2:].tolist())
                yield from pair.mismatched

        scores, is_stopped = list[float](), False
        try:
            scores.extend(_score(self.inner, sequences(), most_tokens, should_stop))
        except StopAsked:
            is_stopped = True
        own, others, count, stops = self.ranks.total([sum(scores), sum(references), len(scores), float(is_stopped)])
        if stops > 0:
            raise StopAsked
        return max(0.0, (own - others) / count)


def score_reference(
    forward: PairForward, rows: PairRows, places: Sequence[int], most_tokens: int, should_stop: Callable[[], bool]
) -> None:
    """Fills in what the model as it is now makes of the pairs at ``places``: that is the reference from then on.

    Before the first step this is the base model where an adapter starts as nothing, the adapter's own start where it
    goes on from other weights, and the weights to be trained where there is no adapter; one rule for all of them, and
    no second model in memory. Raises StopAsked once ``should_stop()`` is true.
    """
    own = [places[number] for number in forward.ranks.deal(len(places))]
    sequences = (sequence for place in own for sequence in rows.example(place).sequences)
    scores: list[float] | None = None
    with suppress(StopAsked):
        scores = list(_score(forward.inner, sequences, most_tokens, should_stop))
    for places_of_one, found in forward.ranks.gather((own, scores)):
        if found is None:
            raise StopAsked
        rows.reference[places_of_one] = np.array(found).reshape(len(places_of_one), rows.reference.shape[1])


def _score(
    forward: TokenForward, rows: Iterable[Row], most_tokens: int, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[float]:
    """log p of each row's target, without dropout, noise or gradients."""
    with _evaluating(forward.model):
        for group in split_by_tokens(rows, most_tokens, pads=forward.pads):
            if should_stop():
                raise StopAsked
            with torch.no_grad():
                found = _sum_by_row(forward.scores(group).log_probs, group)
            yield from found.tolist()


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _sum_by_row(log_probs: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """[rows], from those of all targets end to end."""
    parts = log_probs.split([count_targets([row]) for row in rows])
    return torch.stack([part.sum() for part in parts])
