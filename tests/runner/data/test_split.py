"""Splits: exact where they can be, the same every time, and never a row in two places."""

from collections import Counter
from collections.abc import Collection
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from llm_api.config import load_config
from llm_runner.data.split import TEST, TRAIN, UNUSED, VALIDATION, Splits, assign_splits, exact_sizes
from llm_runner.errors import DataInvalid


def assign(preprocessing: dict[str, Any], values: list[Any], given: Collection[int] = (), seed: int = 7) -> Splits:
    config = load_config(
        {
            "base_model": "tiny",
            "input_features": [{"name": "question", "type": "text"}],
            "output_features": [{"name": "answer", "type": "text"}],
            "preprocessing": preprocessing,
        }
    )
    return assign_splits(config.preprocessing, values, given=given, seed=seed)


def sizes(splits: Splits) -> list[int]:
    return [int((splits == split).sum()) for split in (TRAIN, VALIDATION, TEST)]


@pytest.mark.proves("preprocessing.split.type")
@pytest.mark.parametrize(
    ("row_count", "expected"),
    [
        (1000, [700, 100, 200]),
        (10, [7, 1, 2]),
        (5, [3, 1, 1]),
        (3, [1, 1, 1]),
        (2, [1, 1, 0]),
        (1, [1, 0, 0]),
    ],
)
def test_a_random_split_has_exact_sizes_and_a_hold_out_where_two_rows_are(row_count: int, expected: list[int]) -> None:
    assert sizes(assign({}, [None] * row_count)) == expected


@pytest.mark.proves("preprocessing.split.probabilities[random]")
def test_a_split_without_probability_stays_empty() -> None:
    split = {"type": "random", "probabilities": [0.9, 0.1, 0.0]}
    assert sizes(assign({"split": split}, [None] * 3)) == [2, 1, 0]


def test_exact_sizes_always_add_up() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        probabilities = rng.dirichlet([1.0, 1.0, 1.0])
        row_count = int(rng.integers(0, 50))
        found = exact_sizes(row_count, probabilities)
        assert found.sum() == row_count
        assert (found >= 0).all()
        assert (np.abs(found - row_count * probabilities) < 2).all()


def test_a_seed_gives_the_same_split_again_and_another_seed_another() -> None:
    first = assign({}, [None] * 100)
    assert (first == assign({}, [None] * 100)).all()
    assert (first != assign({}, [None] * 100, seed=8)).any()


@pytest.mark.proves("preprocessing.split.type")
def test_a_stratified_split_keeps_each_class_in_proportion() -> None:
    classes = ["a"] * 70 + ["b"] * 20 + ["c"] * 10
    splits = assign({"split": {"type": "stratify", "column": "label"}}, classes)
    assert sizes(splits) == [70, 10, 20]
    for name, expected in (("a", [49, 7, 14]), ("b", [14, 2, 4]), ("c", [7, 1, 2])):
        assert sizes(splits[[value == name for value in classes]]) == expected


def test_a_stratified_split_of_many_small_classes_has_the_sizes_asked_for() -> None:
    splits = assign({"split": {"type": "stratify", "column": "label"}}, [f"class {row // 2}" for row in range(200)])
    assert np.abs(np.array(sizes(splits)) - [140, 20, 40]).max() <= 1


@pytest.mark.proves("preprocessing.split.type")
@pytest.mark.parametrize(
    "moments",
    [
        [f"2024-01-{day:02}" for day in range(1, 11)],
        [f"2024-01-01T{hour:02}:30:00Z" for hour in range(10)],
        [datetime(2024, 1, 1, hour, tzinfo=UTC) for hour in range(10)],
        [date(2024, 1, day) for day in range(1, 11)],
        [1_700_000_000 + second for second in range(10)],
    ],
)
def test_a_datetime_split_trains_on_the_past_and_tests_on_the_newest(moments: list[Any]) -> None:
    order = np.random.default_rng(3).permutation(10)
    splits = assign({"split": {"type": "datetime", "column": "at"}}, [moments[place] for place in order])
    assert splits[np.argsort(order)].tolist() == [TRAIN] * 7 + [VALIDATION] + [TEST] * 2


@pytest.mark.parametrize("value", ["yesterday", None, "31.12.2024", True, ["2024"]])
def test_a_time_that_cannot_be_read_is_shown_with_one_that_can(value: Any) -> None:
    with pytest.raises(DataInvalid, match=r"'at'.*2024-05-31T12:00:00Z"):
        assign({"split": {"type": "datetime", "column": "at"}}, ["2024-01-01", value])


@pytest.mark.proves("preprocessing.split.type")
def test_a_hash_split_sends_equal_values_to_one_split_whatever_the_seed_and_the_order() -> None:
    split = {"split": {"type": "hash", "column": "user"}}
    users = [f"user {row % 500}" for row in range(5000)]
    splits = assign(split, users)
    by_user = dict(zip(users, splits.tolist(), strict=True))
    assert [by_user[user] for user in reversed(users)] == assign(split, users[::-1], seed=99).tolist()
    shares = Counter(by_user.values())
    assert abs(shares[TRAIN] - 350) < 40
    assert abs(shares[VALIDATION] - 50) < 25


@pytest.mark.proves("preprocessing.split.probabilities[hash]")
def test_a_hash_split_has_the_shares_that_are_written_of_many_values() -> None:
    split = {"type": "hash", "column": "user", "probabilities": [0.2, 0.5, 0.3]}
    found = sizes(assign({"split": split}, [f"user {row}" for row in range(5000)]))
    assert found == pytest.approx([1000, 2500, 1500], abs=150)


@pytest.mark.proves("preprocessing.split.type")
def test_a_fixed_split_is_as_written() -> None:
    values = ["train", "validation", "test", 0, 1, 2, "0", "1", "2", 0.0, "Val", " dev "]
    splits = assign({"split": {"type": "fixed", "column": "split"}}, values)
    assert splits.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 1]


@pytest.mark.parametrize(("value", "shown"), [(3, "3"), ("holdout", "'holdout'"), (None, "no value"), ("", "''")])
def test_an_unknown_fixed_split_is_refused_with_those_that_are_known(value: Any, shown: str) -> None:
    with pytest.raises(DataInvalid, match=f"'split' holds {shown}; write 0 or train"):
        assign({"split": {"type": "fixed", "column": "split"}}, ["train", value])


@pytest.mark.proves("preprocessing.sample_ratio", "preprocessing.sample_size")
def test_sampling_comes_first_and_is_exact() -> None:
    splits = assign({"sample_ratio": 0.5}, [None] * 100)
    assert sizes(splits) == [35, 5, 10]
    assert (splits == UNUSED).sum() == 50
    assert sizes(assign({"sample_size": 10}, [None] * 100)) == [7, 1, 2]
    assert sizes(assign({"sample_size": 1000}, [None] * 10)) == [7, 1, 2]


def test_a_validation_file_leaves_every_row_to_train_on() -> None:
    assert sizes(assign({}, [None] * 10, given=[VALIDATION])) == [10, 0, 0]
    assert sizes(assign({}, [None] * 10, given=[VALIDATION, TEST])) == [10, 0, 0]
    assert sizes(assign({"sample_size": 4}, [None] * 10, given=[VALIDATION])) == [4, 0, 0]


def test_a_test_file_alone_leaves_the_validation_rows_to_the_split() -> None:
    assert sizes(assign({}, [None] * 80, given=[TEST])) == [70, 10, 0]
    fixed = {"split": {"type": "fixed", "column": "split"}}
    assert assign(fixed, [0, 1, 2], given=[TEST]).tolist() == [TRAIN, VALIDATION, UNUSED]
