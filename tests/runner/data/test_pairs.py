"""Pairs of answers: one prompt for both, cut the same, never one without the other, and every mistake explained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llm_api.config import load_config
from llm_runner.data.lengths import measure_lengths
from llm_runner.data.pairs import PairRows, build_pair_rows
from llm_runner.data.prepare import prepare_data
from llm_runner.data.prepared import PreparedData
from llm_runner.data.source import DataFile, DataFiles
from llm_runner.data.tokens import Example
from llm_runner.errors import DataInvalid
from llm_runner.train.batch import split_by_tokens

from tests.support.byte_tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer("<s>")
WHOLE = {"split": {"type": "random", "probabilities": [1.0, 0.0, 0.0]}}
ROWS: list[dict[str, Any]] = [
    {"question": f"What is {n}?", "answer": f"It is {n}.", "rejected": "No idea" * (n % 3 + 1), "worse": "?"}
    for n in range(9)
]


def prepare(
    folder: Path, rows: list[dict[str, Any]], *, context: int = 512, trainer: str = "dpo", **sections: Any
) -> PreparedData:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    column = sections.pop("column", "rejected")
    config = {
        "base_model": "tiny",
        "input_features": [{"name": "question", "type": "text"}],
        "output_features": [{"name": "answer", "type": "text", "preprocessing": sections.pop("output", {})}],
        "trainer": {"type": trainer, "rejected_column": column},
        "preprocessing": WHOLE,
        **sections,
    }
    return prepare_data(
        load_config(config),
        TOKENIZER,
        DataFiles(DataFile(path)),
        context_length=context,
        work_path=folder,
        seed=5,
        warn=lambda _: None,
    )


def parts(example: Example) -> tuple[str, str]:
    ids, length = example.token_ids, example.prompt_length
    return str(TOKENIZER.decode(ids[:length])), str(TOKENIZER.decode(ids[length:]))


def pairs_of(data: PreparedData, scores: int = 0) -> PairRows:
    return build_pair_rows(data.train, data.rejected[0], scores=scores)


@pytest.mark.proves("trainer.rejected_column")
@pytest.mark.parametrize("trainer", ["dpo", "kto", "orpo"])
def test_a_pair_is_one_prompt_with_the_answer_and_with_what_stands_in_the_column(trainer: str, tmp_path: Path) -> None:
    pairs = pairs_of(prepare(tmp_path, ROWS, trainer=trainer))
    assert len(pairs) == 9
    for place, row in enumerate(ROWS):
        pair = pairs.example(place)
        assert parts(pair.chosen) == (f"<s>{row['question']}", f"{row['answer']}</s>")
        assert parts(pair.rejected) == (f"<s>{row['question']}", f"{row['rejected']}</s>")
        assert len(pair) == pairs.lengths[place] == len(pair.chosen.token_ids) + len(pair.rejected.token_ids)


@pytest.mark.proves("trainer.rejected_column")
def test_another_column_may_hold_what_is_rejected(tmp_path: Path) -> None:
    pair = pairs_of(prepare(tmp_path, ROWS, column="worse")).example(3)
    assert parts(pair.rejected) == ("<s>What is 3?", "?</s>")


def test_what_is_rejected_is_no_part_of_a_sample_and_not_asked_for_later(tmp_path: Path) -> None:
    """The prompt of an input without a column of its own shows all columns that are no answers."""
    rows = [{"topic": "sums", "text": "2 + 2", "answer": "4", "rejected": "5"}]
    sections = {"input_features": [{"name": "prompt", "type": "text"}], "prompt": {"template": "{__sample__}"}}
    data = prepare(tmp_path, rows, **sections)
    assert parts(pairs_of(data).example(0).chosen) == ("<s>topic: sums\ntext: 2 + 2", "4</s>")
    assert data.table_columns == ("topic", "text", "answer")


def test_both_answers_are_treated_alike(tmp_path: Path) -> None:
    rows = [{"question": "Q", "answer": "ABCDEFGH", "rejected": "IJKLMNOP"}]
    output = {"lowercase": True, "max_sequence_length": 3}
    pair = pairs_of(prepare(tmp_path, rows, output=output)).example(0)
    assert (parts(pair.chosen)[1], parts(pair.rejected)[1]) == ("abc", "ijk")


def test_the_prompt_is_cut_for_the_longer_answer_and_the_same_for_both(tmp_path: Path) -> None:
    rows = [{"question": "0123456789", "answer": "a", "rejected": "bcdef"}]
    data = prepare(tmp_path, rows, context=12)
    pair = pairs_of(data).example(0)
    assert parts(pair.chosen) == ("<s>01789", "a</s>")
    assert parts(pair.rejected) == ("<s>01789", "bcdef</s>")
    assert data.counts.rows_truncated == 1


def test_a_pair_is_as_long_as_its_longer_answer(tmp_path: Path) -> None:
    lengths = measure_lengths(prepare(tmp_path, ROWS))
    longer = [max(len(row["answer"]), len(row["rejected"])) + 1 for row in ROWS]
    assert sorted(lengths.targets.tolist()) == sorted(longer)


def test_a_pair_takes_twice_its_longer_sequence_where_it_is_padded(tmp_path: Path) -> None:
    rows = pairs_of(prepare(tmp_path, ROWS))
    pairs = [rows.example(place) for place in range(len(rows))]
    assert [pair.padded_length for pair in pairs] == rows.padded_lengths.tolist()
    assert all(pair.padded_length == 2 * max(len(pair.chosen), len(pair.rejected)) for pair in pairs)
    most = pairs[0].padded_length + 1
    for group in split_by_tokens(pairs, most, pads=True):
        assert len(group) == 1 or max(pair.padded_length for pair in group) * len(group) <= most


@pytest.mark.parametrize("value", [None, ""])
def test_a_pair_without_a_rejected_answer_is_refused_and_named(value: str | None, tmp_path: Path) -> None:
    rows = [*ROWS, {"question": "Who?", "answer": "Nobody knows.", "rejected": value}]
    with pytest.raises(DataInvalid) as caught:
        prepare(tmp_path, rows)
    assert str(caught.value) == (
        "column 'rejected' (trainer.rejected_column) has no value in the row whose 'answer' is 'Nobody knows.'; a pair "
        "needs an answer that is worse: write one, or take the row out"
    )


def test_a_column_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match=r"no column 'rejectd' \(is it 'rejected'\?\)"):
        prepare(tmp_path, ROWS, column="rejectd")


def test_mismatched_sequences_are_the_prompt_with_both_answers_of_a_pair_half_a_table_away(tmp_path: Path) -> None:
    pairs = pairs_of(prepare(tmp_path, ROWS), scores=4)
    prompt = "<s>What is 7?"
    assert [parts(one) for one in pairs.example(7).mismatched] == [
        (prompt, "It is 2.</s>"),
        (prompt, "No idea" * 3 + "</s>"),
    ]
    assert pairs_of(prepare(tmp_path, ROWS), scores=2).example(7).mismatched == ()


def test_a_mismatched_sequence_is_no_longer_than_the_data(tmp_path: Path) -> None:
    """It would not fit the model's context."""
    rows = [
        {"question": "a" * 30, "answer": "b", "rejected": "c"},
        {"question": "d", "answer": "e" * 28, "rejected": "f"},
    ]
    pairs = pairs_of(prepare(tmp_path, rows), scores=4)
    longest = max(len(pair.chosen) for pair in map(pairs.example, range(2)))
    assert [len(one) for one in pairs.example(0).mismatched] == [longest, 33]
    assert parts(pairs.example(0).mismatched[0]) == ("<s>" + "a" * 30, "ee")


def test_the_reference_is_unknown_until_it_is_filled_in(tmp_path: Path) -> None:
    pairs = pairs_of(prepare(tmp_path, ROWS), scores=2)
    assert np.isnan(pairs.example(0).reference).all()
    pairs.reference[0] = [-1.0, -2.0]
    assert pairs.example(0).reference.tolist() == [-1.0, -2.0]
