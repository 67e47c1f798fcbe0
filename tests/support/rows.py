"""Training rows made on the spot: token ids without any text behind them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TokenRow:
    """One example: the prompt's tokens, then the answer's."""

    token_ids: npt.NDArray[np.int64]
    prompt_length: int

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class TokenRows:
    """A table of examples."""

    rows: Sequence[TokenRow]

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, index: int) -> TokenRow:
        return self.rows[index]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.array([len(row.token_ids) for row in self.rows])


def make_row(token_ids: Sequence[int], prompt_length: int = 1) -> TokenRow:
    return TokenRow(np.array(token_ids), prompt_length)


def random_rows(count: int, *, seed: int = 0, shortest: int = 4, longest: int = 40, vocabulary: int = 250) -> TokenRows:
    """Rows of random length, prompt and tokens; the same ones for the same seed."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(shortest, longest + 1, count)
    return TokenRows(
        [TokenRow(generator.integers(2, vocabulary, length), int(generator.integers(1, length))) for length in lengths]
    )
