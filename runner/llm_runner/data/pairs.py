"""Pairs of answers to the same prompt, of which one is better: rows of two sequences that are trained on together.

Where a method asks for it, a pair also knows its prompt with the answers of another pair, and what the reference model
makes of all of its sequences. Who works that out is ``train.reference``.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_runner.data.tokens import Example, TokenizedRows

Reference = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """One row."""

    chosen: Example
    rejected: Example
    reference: Reference
    """Log-probability of each sequence's target under the reference model, in the order of ``sequences``; empty where
    the method has no reference, NaN as long as it isn't known."""
    mismatched: tuple[Example, ...] = ()
    """The same prompt with both answers of another pair."""

    def __len__(self) -> int:
        """Tokens of the two sequences that are trained on."""
        return len(self.chosen) + len(self.rejected)

    @property
    def padded_length(self) -> int:
        """Those that both take where the shorter one is padded."""
        return 2 * max(len(self.chosen), len(self.rejected))

    @property
    def sequences(self) -> tuple[Example, ...]:
        return (self.chosen, self.rejected, *self.mismatched)


@dataclass(frozen=True)
class PairRows:
    """The pairs of one split; their ids stay on disk and are read as they are asked for."""

    chosen: TokenizedRows
    rejected: TokenizedRows
    reference: Reference
    """[pairs, sequences]; filled in place."""
    mismatches: bool = False

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each pair, both sequences."""
        return self.chosen.lengths + self.rejected.lengths

    @property
    def padded_lengths(self) -> npt.NDArray[np.int64]:
        return 2 * np.maximum(self.chosen.lengths, self.rejected.lengths)

    def example(self, row: int) -> Pair:
        chosen, rejected = self.chosen.example(row), self.rejected.example(row)
        mismatched = self._mismatch(row, chosen) if self.mismatches else ()
        return Pair(chosen, rejected, self.reference[row].copy(), mismatched)

    def _mismatch(self, row: int, own: Example) -> tuple[Example, ...]:
        """With the answers of the pair half a table away: neighbours often share their prompt."""
        other = (row + max(1, len(self) // 2)) % len(self)
        prompt = own.token_ids[: own.prompt_length]
        room = self._longest - len(prompt)
        answers = (rows.example(other) for rows in (self.chosen, self.rejected))
        targets = (answer.token_ids[answer.prompt_length :][:room] for answer in answers)
        return tuple(Example(np.concatenate([prompt, target]), len(prompt)) for target in targets)

    @property
    def _longest(self) -> int:
        """No sequence is longer than the longest of the data, which fits the model."""
        return int(max(self.chosen.longest, self.rejected.longest))


def build_pair_rows(chosen: TokenizedRows, rejected: TokenizedRows, *, scores: int) -> PairRows:
    """``scores``: of how many sequences of a pair the method wants the reference's log-probability: 0, 2 or 4."""
    reference = np.full((len(chosen), scores), np.nan)
    return PairRows(chosen, rejected, reference, mismatches=scores == 4)
