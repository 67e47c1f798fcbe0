"""Rows of token ids become what a forward pass takes: flattened without padding, or padded where that can't be."""

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch


class Row(Sized, Protocol):
    """One training example: the prompt's tokens, then the answer's. Its length is that of both."""

    @property
    def token_ids(self) -> np.ndarray: ...
    @property
    def prompt_length(self) -> int: ...


class Rows(Sized, Protocol):
    """A table of what is trained on: of examples, or of pairs of them."""

    def example(self, index: int) -> Sized:
        """One of them; its length is in tokens."""

    @property
    def lengths(self) -> np.ndarray: ...


Item = TypeVar("Item", bound=Sized)


@dataclass(frozen=True)
class FlatBatch:
    """Several sequences end to end in one row."""

    input_ids: torch.Tensor
    """[1, tokens]"""
    position_ids: torch.Tensor
    """[1, tokens]; restart at 0 with each sequence."""
    sequence_lengths: list[int]
    predicting: torch.Tensor
    """Positions in the row whose next token is a target, [targets]."""
    targets: torch.Tensor
    """Token ids, [targets]."""


@dataclass(frozen=True)
class PaddedBatch:
    """Several sequences side by side, padded on the right."""

    input_ids: torch.Tensor
    """[rows, longest]"""
    attention_mask: torch.Tensor
    """[rows, longest]; 0 where padding stands."""
    predicting: torch.Tensor
    """As a mask, [rows, longest]."""
    targets: torch.Tensor
    """Token ids in reading order of ``predicting``, [targets]."""


def flatten(rows: Sequence[Row], device: torch.device) -> FlatBatch:
    lengths = [len(row) for row in rows]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    predicting = [
        np.arange(start + max(row.prompt_length, 1) - 1, start + length - 1)
        for row, start, length in zip(rows, starts, lengths, strict=True)
    ]
    return FlatBatch(
        input_ids=_to_tensor(np.concatenate([row.token_ids for row in rows]), device)[None],
        position_ids=_to_tensor(np.concatenate([np.arange(length) for length in lengths]), device)[None],
        sequence_lengths=lengths,
        predicting=_to_tensor(np.concatenate(predicting), device),
        targets=_to_tensor(_targets(rows), device),
    )


def pad(rows: Sequence[Row], device: torch.device) -> PaddedBatch:
    shape = (len(rows), max(len(row) for row in rows))
    input_ids, mask, predicting = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for number, row in enumerate(rows):
        length = len(row)
        input_ids[number, :length] = row.token_ids
        mask[number, :length] = 1
        predicting[number, max(row.prompt_length, 1) - 1 : length - 1] = 1
    return PaddedBatch(
        input_ids=_to_tensor(input_ids, device),
        attention_mask=_to_tensor(mask, device),
        predicting=_to_tensor(predicting, device).bool(),
        targets=_to_tensor(_targets(rows), device),
    )


def split_by_tokens(
    rows: Iterable[Item], most_tokens: int, *, pads: bool = False, most_rows: int | None = None
) -> Iterator[list[Item]]:
    """Groups of at most ``most_tokens`` tokens and ``most_rows`` rows each, in order; a longer row stands alone.

    ``pads``: whether padding counts too, as each row of a group becomes as long as the longest. Rows are taken as they
    are needed, so that a table larger than memory goes through.
    """
    group: list[Item] = []
    total = longest = 0
    for row in rows:
        length = getattr(row, "padded_length", len(row)) if pads else len(row)
        total, longest = total + length, max(longest, length)
        tokens = longest * (len(group) + 1) if pads else total
        if group and (tokens > most_tokens or len(group) == most_rows):
            yield group
            group, total, longest = [], length, length
        group.append(row)
    if group:
        yield group


def count_targets(rows: Iterable[Row]) -> int:
    return sum(len(row) - max(row.prompt_length, 1) for row in rows)


def _targets(rows: Sequence[Row]) -> np.ndarray:
    """The first token of a row is never a target: nothing stands before it to predict it from."""
    return np.concatenate([row.token_ids[max(row.prompt_length, 1) :] for row in rows])


def _to_tensor(values: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int64)).to(device)
