"""What preparing data results in: the rows of each split, and what became of those read. Does nothing itself."""

from dataclasses import dataclass

from torch import Tensor

from llm_runner.data.pool import Pool
from llm_runner.data.prompt import Prompt
from llm_runner.data.tokens import TokenizedRows


@dataclass(frozen=True)
class RenderedExample:
    """One row as text, for people to look at."""

    prompt: str
    target: str


@dataclass(frozen=True)
class DataCounts:
    """What became of the rows of all files."""

    rows_read: int
    rows_train: int
    rows_validation: int
    rows_test: int
    rows_dropped_missing_value: int
    rows_dropped_no_target: int
    """No room for a single token of the answer."""
    rows_truncated: int
    """Prompt or answer was cut to length."""
    rows_not_sampled: int
    values_filled: int
    """Cells without a value, filled by missing_value_strategy."""

    @property
    def rows_used(self) -> int:
        return self.rows_train + self.rows_validation + self.rows_test

    @property
    def rows_dropped(self) -> int:
        return self.rows_dropped_missing_value + self.rows_dropped_no_target


@dataclass(frozen=True)
class PreparedData:
    """A run's data, ready for use; the token ids lie under the run's work path."""

    train: TokenizedRows
    """Never empty."""
    validation: TokenizedRows
    test: TokenizedRows
    counts: DataCounts
    digest: str
    """SHA-256 of the files' bytes, one file after the other: train, validation, test."""
    examples: tuple[RenderedExample, ...]
    """The first rows of the hold-out."""
    prompt: Prompt
    """How rows became prompts, but for the examples in them."""
    table_columns: tuple[str, ...]
    """All columns of the training table, but that of rejected answers."""
    pool: Pool | None = None
    """What examples come from, where prompts show any."""
    vectors: Tensor | None = None
    """Of the pool's rows, where examples are chosen by likeness of meaning."""
    rejected: tuple[TokenizedRows, ...] = ()
    """Of pairs: the prompts of train, validation and test with the answers that are worse, row by row."""

    @property
    def hold_out(self) -> TokenizedRows | None:
        """What the run is judged on: the validation rows, else the test rows, else nothing."""
        return next((rows for rows in (self.validation, self.test) if len(rows) > 0), None)
