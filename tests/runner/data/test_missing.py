"""Missing values: each strategy fills as it says, and what stays open is dropped and counted."""

from typing import Any

import pytest
from llm_runner.data.missing import Gap, GapCounts, complete_rows, resolve_modes

VALUES = [None, "a", None, None, "b", "b", float("nan")]


def run(strategy: str, fill: str = "") -> tuple[list[Any], GapCounts]:
    counts = GapCounts()
    gaps = resolve_modes([Gap("x", strategy, fill)], rows())
    return [row["x"] for row in complete_rows(rows(), gaps, counts)], counts


def rows() -> list[dict[str, Any]]:
    return [{"x": value, "other": None} for value in VALUES]


@pytest.mark.proves(
    "input_features.preprocessing.missing_value_strategy", "output_features.preprocessing.missing_value_strategy"
)
@pytest.mark.parametrize(
    ("strategy", "expected", "filled", "dropped"),
    [
        ("drop_row", ["a", "b", "b"], 0, 4),
        ("fill_with_const", ["?", "a", "?", "?", "b", "b", "?"], 4, 0),
        ("fill_with_mode", ["b", "a", "b", "b", "b", "b", "b"], 4, 0),
        ("ffill", ["a", "a", "a", "b", "b", "b"], 3, 1),
        ("bfill", ["a", "a", "b", "b", "b", "b"], 3, 1),
    ],
)
def test_each_strategy_fills_as_it_says(strategy: str, expected: list[str], filled: int, dropped: int) -> None:
    values, counts = run(strategy, "?")
    assert values == expected
    assert counts.filled["x"] == filled
    assert counts.dropped["x"] == dropped


def test_strategies_of_several_columns_work_together() -> None:
    table: list[dict[str, Any]] = [
        {"a": None, "b": None, "c": "1"},
        {"a": "x", "b": None, "c": None},
        {"a": None, "b": "y", "c": "3"},
        {"a": "z", "b": "z", "c": "4"},
    ]
    gaps = [Gap("a", "bfill"), Gap("b", "bfill"), Gap("c", "drop_row")]
    kept = list(complete_rows(table, gaps, GapCounts()))
    assert kept == [
        {"a": "x", "b": "y", "c": "1"},
        {"a": "z", "b": "y", "c": "3"},
        {"a": "z", "b": "z", "c": "4"},
    ]


def test_a_column_without_any_value_has_no_mode_and_loses_its_rows() -> None:
    gaps = resolve_modes([Gap("x", "fill_with_mode")], [{"x": None}])
    counts = GapCounts()
    assert list(complete_rows([{"x": None}], gaps, counts)) == []
    assert counts.dropped == {"x": 1}


def test_an_empty_text_is_a_value() -> None:
    assert list(complete_rows([{"x": ""}], [Gap("x", "drop_row")], GapCounts())) == [{"x": ""}]
