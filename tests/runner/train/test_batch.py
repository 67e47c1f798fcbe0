"""Rows as batches: flattened and padded alike, in groups that fit."""

import pytest
import torch
from llm_runner.train.batch import flatten, pad, split_by_tokens

from tests.support.rows import make_row, random_rows

CPU = torch.device("cpu")
ROWS = [make_row([10, 11, 12, 13], 2), make_row([20, 21], 1), make_row([30, 31, 32], 2)]


def test_a_flattened_batch_lays_rows_end_to_end_and_restarts_positions() -> None:
    batch = flatten(ROWS, CPU)
    assert batch.input_ids.tolist() == [[10, 11, 12, 13, 20, 21, 30, 31, 32]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2]]
    assert batch.sequence_lengths == [4, 2, 3]


def test_each_target_is_predicted_from_the_token_before_it() -> None:
    batch = flatten(ROWS, CPU)
    assert batch.targets.tolist() == [12, 13, 21, 32]
    assert batch.input_ids[0, batch.predicting].tolist() == [11, 12, 20, 31]


def test_no_target_is_predicted_across_a_boundary_even_without_a_prompt() -> None:
    batch = flatten([make_row([10, 11], 0), make_row([20, 21], 0)], CPU)
    assert batch.targets.tolist() == [11, 21]
    assert batch.predicting.tolist() == [0, 2]


def test_a_padded_batch_has_the_same_targets_in_the_same_order() -> None:
    rows = random_rows(7).rows
    padded, flat = pad(rows, CPU), flatten(rows, CPU)
    assert padded.targets.tolist() == flat.targets.tolist()
    assert padded.input_ids[padded.predicting].tolist() == flat.input_ids[0, flat.predicting].tolist()
    assert padded.attention_mask.sum(1).tolist() == flat.sequence_lengths


ROWS_BY_LENGTH = [make_row([1] * length) for length in (3, 4, 3, 12, 1, 1, 8)]


def test_groups_hold_as_many_tokens_as_fit_and_a_longer_row_stands_alone() -> None:
    groups = list(split_by_tokens(ROWS_BY_LENGTH, 10))
    assert [[len(row.token_ids) for row in group] for group in groups] == [[3, 4, 3], [12], [1, 1, 8]]


def test_where_rows_are_padded_the_padding_takes_room_too() -> None:
    groups = list(split_by_tokens(ROWS_BY_LENGTH, 10, pads=True))
    assert [[len(row.token_ids) for row in group] for group in groups] == [[3, 4], [3], [12], [1, 1], [8]]


@pytest.mark.parametrize(("most", "sizes"), [(1, [1] * 7), (2, [2, 1, 1, 2, 1]), (3, [3, 1, 3]), (9, [3, 1, 3])])
def test_a_group_holds_no_more_rows_than_allowed(most: int, sizes: list[int]) -> None:
    assert [len(group) for group in split_by_tokens(ROWS_BY_LENGTH, 10, most_rows=most)] == sizes


@pytest.mark.parametrize("pads", [False, True])
def test_rows_are_taken_only_as_their_group_is_made(pads: bool) -> None:
    rows = iter(ROWS_BY_LENGTH)
    next(split_by_tokens(rows, 5, pads=pads))
    assert len(list(rows)) == len(ROWS_BY_LENGTH) - 2


def test_nothing_makes_no_groups() -> None:
    assert list(split_by_tokens([], 10)) == []
