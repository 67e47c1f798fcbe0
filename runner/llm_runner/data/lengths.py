"""How long rows are in tokens, and what each limit of the config would cut of them. Prints and draws nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llm_runner.data.prepared import PreparedData
from llm_runner.data.tokens import MIN_PROMPT_TOKENS, LengthLimits, TokenizedRows

Counts: TypeAlias = npt.NDArray[np.int64]

LEAST_LIMIT = 32
"""Smaller ones are not worth a line."""


@dataclass(frozen=True)
class RowLengths:
    """Tokens of every row, as nothing has been cut yet."""

    prompts: Counts
    targets: Counts
    """Answers with their end-of-sequence."""

    @property
    def whole(self) -> Counts:
        return self.prompts + self.targets


@dataclass(frozen=True)
class Cut:
    """What one limit would do."""

    limits: LengthLimits
    shortened_prompts: int
    shortened_targets: int
    """Answers that lose their end, but not all."""
    lost_rows: int
    """Rows of which no target is left; they don't train."""
    kept_tokens: float
    """The share of all tokens that is left."""


def measure_lengths(data: PreparedData) -> RowLengths:
    """Of a pair, its prompt with the longer answer."""
    splits = (data.train, data.validation, data.test)
    prompts, targets = (_join(splits, name) for name in ("prompt_lengths", "target_lengths"))
    if data.rejected:
        targets = np.maximum(targets, _join(data.rejected, "target_lengths"))
    return RowLengths(prompts, targets)


def _join(splits: Sequence[TokenizedRows], name: str) -> Counts:
    return np.concatenate([getattr(rows, name) for rows in splits]).astype(np.int64)


def measure_cut(lengths: RowLengths, limits: LengthLimits) -> Cut:
    """As ``LengthLimits.fit`` does it, for all rows at once."""
    prompts = np.minimum(lengths.prompts, limits.whole if limits.prompt is None else limits.prompt)
    room = np.maximum(0, limits.whole - np.minimum(prompts, MIN_PROMPT_TOKENS))
    targets = np.minimum(lengths.targets, room if limits.target is None else np.minimum(room, limits.target))
    prompts = np.minimum(prompts, limits.whole - targets)
    is_lost = targets == 0
    return Cut(
        limits=limits,
        shortened_prompts=int(((prompts < lengths.prompts) & ~is_lost).sum()),
        shortened_targets=int(((targets < lengths.targets) & ~is_lost).sum()),
        lost_rows=int(is_lost.sum()),
        kept_tokens=float((prompts + targets)[~is_lost].sum() / lengths.whole.sum()),
    )


def plan_limits_to_try(longest: int, others: Sequence[int | None]) -> list[int]:
    """Powers of two, from small to the first that cuts nothing, and those that are written anyway."""
    doubled = list(_double_until(longest))
    return sorted({*doubled, *(other for other in others if other is not None and other <= 2 * doubled[-1])})


def _double_until(longest: int) -> Iterator[int]:
    limit = LEAST_LIMIT
    while limit < longest:
        yield limit
        limit *= 2
    yield limit
