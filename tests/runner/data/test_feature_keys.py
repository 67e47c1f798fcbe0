"""Keys of features and splits that name columns or fill gaps, from a file to tokenized rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from llm_api.config import load_config
from llm_runner.data.prepare import prepare_data
from llm_runner.data.prepared import PreparedData
from llm_runner.data.source import DataFile, DataFiles
from llm_runner.data.tokens import TokenizedRows

from tests.support.byte_tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()
QUESTION = {"name": "question", "type": "text"}
LABELS = {"yes": {"type": "contains", "value": "yes"}, "no": {"type": "contains", "value": "no"}}
TEXT: dict[str, Any] = {"type": "text"}
CATEGORY: dict[str, Any] = {
    "type": "category",
    "preprocessing": {"fallback_label": "no"},
    "decoder": {"type": "category_extractor", "match": LABELS},
}


def prepare(folder: Path, rows: list[dict[str, Any]], output: dict[str, Any], **sections: Any) -> PreparedData:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"base_model": "tiny", "input_features": [QUESTION], "output_features": [output], **sections}
    files = DataFiles(DataFile(path))
    return prepare_data(
        load_config(config), TOKENIZER, files, context_length=512, work_path=folder, seed=5, warn=lambda text: None
    )


def texts(rows: TokenizedRows) -> list[str]:
    return [str(TOKENIZER.decode(rows.example(number).token_ids)) for number in range(len(rows))]


def with_preprocessing(output: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"name": "answer", **output, "preprocessing": {**output.get("preprocessing", {}), **keys}}


@pytest.mark.proves("output_features.column", "output_features.name")
@pytest.mark.parametrize("output", [TEXT, CATEGORY], ids=["text", "category"])
def test_an_answer_is_read_from_its_features_column_or_else_from_that_of_its_name(
    output: dict[str, Any], tmp_path: Path
) -> None:
    rows = [{"question": "Sure? ", "answer": "yes", "reviewed": "no"}]
    assert texts(prepare(tmp_path, rows, {"name": "answer", **output}).train) == ["Sure? yes</s>"]
    reviewed = {"name": "answer", "column": "reviewed", **output}
    assert texts(prepare(tmp_path, rows, reviewed).train) == ["Sure? no</s>"]


@pytest.mark.proves("output_features.preprocessing.fill_value", "output_features.preprocessing.missing_value_strategy")
def test_a_missing_answer_is_filled_with_the_written_value_where_that_is_the_strategy(tmp_path: Path) -> None:
    rows = [{"question": "Sure? ", "answer": None}]
    output = with_preprocessing(TEXT, missing_value_strategy="fill_with_const", fill_value="don't know")
    assert texts(prepare(tmp_path, rows, output).train) == ["Sure? don't know</s>"]


@pytest.mark.proves("output_features.preprocessing.missing_value_strategy[category]")
@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("fill_with_const", "no"), ("fill_with_mode", "yes"), ("ffill", "yes"), ("bfill", "maybe"), ("drop_row", None)],
)
def test_a_missing_label_is_filled_by_the_strategy(strategy: str, expected: str | None, tmp_path: Path) -> None:
    labels = ["yes", "yes", None, "maybe"]
    rows = [{"question": f"{place} ", "answer": label} for place, label in enumerate(labels)]
    output = with_preprocessing(CATEGORY, missing_value_strategy=strategy)
    split = {"split": {"type": "random", "probabilities": [1, 0, 0]}}
    found = texts(prepare(tmp_path, rows, output, preprocessing=split).train)
    assert [text for text in found if text.startswith("2")] == ([] if expected is None else [f"2 {expected}</s>"])


@pytest.mark.proves("output_features.preprocessing.lowercase[category]")
def test_labels_are_put_into_lower_case_where_asked(tmp_path: Path) -> None:
    rows = [{"question": "Sure? ", "answer": "YES"}]
    for lowercase, expected in ((True, "yes"), (False, "YES")):
        output = with_preprocessing(CATEGORY, lowercase=lowercase)
        assert texts(prepare(tmp_path, rows, output).train) == [f"Sure? {expected}</s>"]


ROWS = [
    {"question": f"{row:02} ", "answer": "ab"[row % 2], "mood": "xyyyy"[row % 5], "at": f"2024-01-{30 - row:02}"}
    for row in range(20)
]


def held_out(folder: Path, **split: Any) -> list[list[dict[str, Any]]]:
    """The rows of each part of a half and two quarters."""
    keys = {"split": {"probabilities": [0.5, 0.25, 0.25], **split}}
    data = prepare(folder, ROWS, {"name": "answer", "type": "text"}, preprocessing=keys)
    return [[ROWS[int(text[:2])] for text in texts(part)] for part in (data.train, data.validation, data.test)]


@pytest.mark.proves("preprocessing.split.column[stratify]", "preprocessing.split.probabilities[stratify]")
@pytest.mark.parametrize(
    ("written", "column", "value", "expected"),
    [({}, "answer", "a", [5, 2.5, 2.5]), ({"column": "mood"}, "mood", "x", [2, 1, 1])],
    ids=["unwritten", "written"],
)
def test_a_stratified_split_goes_by_its_column_or_else_by_the_answer(
    written: dict[str, str], column: str, value: str, expected: list[float], tmp_path: Path
) -> None:
    parts = held_out(tmp_path, type="stratify", **written)
    assert [len(part) for part in parts] == [10, 5, 5]
    assert [sum(row[column] == value for row in part) for part in parts] == pytest.approx(expected, abs=0.5)


@pytest.mark.proves("preprocessing.split.column[datetime]", "preprocessing.split.probabilities[datetime]")
def test_a_split_by_date_goes_by_its_column(tmp_path: Path) -> None:
    parts = held_out(tmp_path, type="datetime", column="at")
    assert [sorted(row["at"] for row in part) for part in parts] == [
        [f"2024-01-{day:02}" for day in days] for days in (range(11, 21), range(21, 26), range(26, 31))
    ]


@pytest.mark.proves("preprocessing.split.column[hash]")
def test_a_split_by_hash_goes_by_its_column(tmp_path: Path) -> None:
    by_mood, by_question = (held_out(tmp_path, type="hash", column=column) for column in ("mood", "question"))
    assert sorted(len({row["mood"] for row in part}) for part in by_mood) in ([0, 0, 2], [0, 1, 1])
    assert sum(len({row["mood"] for row in part}) for part in by_question) > 2
