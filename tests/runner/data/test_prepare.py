"""Preparing data, from files to tokenized rows: nothing is lost unsaid, and every mistake is explained."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from llm_api.config import load_config
from llm_runner.data.prepare import prepare_data
from llm_runner.data.prepared import PreparedData
from llm_runner.data.source import DataFile, DataFiles
from llm_runner.data.tokens import TokenizedRows
from llm_runner.errors import DataInvalid

from tests.support.byte_tokenizer import BOS, EOS, byte_tokenizer

TOKENIZER = byte_tokenizer("<s>")
ROWS: list[dict[str, Any]] = [
    {"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}.", "topic": "sum"} for n in range(20)
]


class Case:
    """A folder with data files, and the config to prepare them with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warnings: list[str] = []

    def write(self, rows: list[dict[str, Any]], name: str = "train") -> DataFile:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return DataFile(path)

    def prepare(
        self, files: DataFiles | list[dict[str, Any]], context_length: int = 512, **sections: Any
    ) -> PreparedData:
        config = {
            "base_model": "tiny",
            "input_features": [{"name": "question", "type": "text", "preprocessing": sections.pop("input", {})}],
            "output_features": [{"name": "answer", "type": "text", "preprocessing": sections.pop("output", {})}],
            **sections,
        }
        return prepare_data(
            load_config(config),
            TOKENIZER,
            files if isinstance(files, DataFiles) else DataFiles(self.write(files)),
            context_length=context_length,
            work_path=self.folder,
            seed=5,
            warn=self.warnings.append,
        )

    def refusal(self, *args: Any, **sections: Any) -> str:
        with pytest.raises(DataInvalid) as caught:
            self.prepare(*args, **sections)
        return str(caught.value)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def texts(rows: TokenizedRows) -> list[tuple[str, str]]:
    examples = [rows.example(number) for number in range(len(rows))]
    return [
        (
            str(TOKENIZER.decode(example.token_ids[: example.prompt_length])),
            str(TOKENIZER.decode(example.token_ids[example.prompt_length :])),
        )
        for example in examples
    ]


def all_texts(data: PreparedData) -> list[tuple[str, str]]:
    return [pair for rows in (data.train, data.validation, data.test) for pair in texts(rows)]


@pytest.mark.proves("input_features.name", "output_features.name[text]")
def test_every_row_lands_in_one_split_with_its_prompt_and_its_answer(case: Case) -> None:
    data = case.prepare(ROWS)
    assert [len(rows) for rows in (data.train, data.validation, data.test)] == [14, 2, 4]
    expected = [(f"<s>{row['question']}", f"{row['answer']}</s>") for row in ROWS]
    assert sorted(all_texts(data)) == sorted(expected)
    assert case.warnings == []


def test_rows_are_the_same_as_tokenizing_each_one_by_itself(case: Case) -> None:
    rows = [{"question": f"ä{n} " * (n % 7), "answer": "é" * (n % 5)} for n in range(2500)]
    data = case.prepare(
        rows, prompt={"template": "Q: {question}\nA:"}, preprocessing={"split": {"type": "hash", "column": "question"}}
    )
    found: Counter[Any] = Counter()
    for split in (data.train, data.validation, data.test):
        for number in range(len(split)):
            example = split.example(number)
            found[tuple(example.token_ids.tolist()), example.prompt_length] += 1
    expected: Counter[Any] = Counter()
    for row in rows:
        prompt = TOKENIZER.encode(f"Q: {row['question']}\nA:")
        answer = TOKENIZER.encode(row["answer"], add_special_tokens=False)
        expected[(*prompt, *answer, EOS), len(prompt)] += 1
    assert found == expected


def test_preparing_again_gives_the_same_rows_in_the_same_order(case: Case) -> None:
    first, second = case.prepare(ROWS), case.prepare(ROWS)
    assert texts(first.train) == texts(second.train)
    assert texts(first.test) == texts(second.test)


def test_files_of_their_own_are_held_out_and_the_whole_training_file_trains(case: Case) -> None:
    files = DataFiles(case.write(ROWS[:10]), case.write(ROWS[10:13], "validation"), case.write(ROWS[13:], "test"))
    data = case.prepare(files)
    assert [len(rows) for rows in (data.train, data.validation, data.test)] == [10, 3, 7]
    assert texts(data.validation)[0] == ("<s>What is 10 + 10?", "It is 20.</s>")
    assert data.hold_out is data.validation


def test_a_split_that_a_validation_file_overrides_is_said(case: Case) -> None:
    files = DataFiles(case.write(ROWS[:10]), case.write(ROWS[10:], "validation"))
    case.prepare(files, preprocessing={"split": {"type": "random"}})
    assert "preprocessing.split is not used" in case.warnings[0]


def test_a_split_column_need_not_be_in_the_validation_file_nor_in_the_prompt(case: Case) -> None:
    rows = [{**row, "split": "train"} for row in ROWS]
    files = DataFiles(case.write(rows), test=case.write(ROWS, "test"))
    fixed = {"split": {"type": "fixed", "column": "split"}}
    data = case.prepare(files, preprocessing=fixed, prompt={"template": "{__sample__}"})
    assert len(data.train) == len(data.test) == 20


def test_the_hold_out_is_the_test_rows_where_no_validation_rows_are_and_that_is_said(case: Case) -> None:
    data = case.prepare(ROWS, preprocessing={"split": {"type": "random", "probabilities": [0.8, 0.0, 0.2]}})
    assert data.hold_out is data.test
    assert any("evaluated on the test rows" in warning for warning in case.warnings)


def test_no_hold_out_at_all_is_said(case: Case) -> None:
    data = case.prepare(ROWS, preprocessing={"split": {"type": "random", "probabilities": [1.0, 0.0, 0.0]}})
    assert data.hold_out is None
    assert data.examples == ()
    assert any("no rows are held out" in warning for warning in case.warnings)


def test_the_first_rows_of_the_hold_out_are_kept_as_text(case: Case) -> None:
    data = case.prepare(ROWS, prompt={"template": "Q: {question}"})
    assert len(data.examples) == 2
    assert data.examples[0].prompt.startswith("Q: What is ")
    assert data.examples[0].target.startswith("It is ")


def test_the_digest_is_that_of_the_files_one_after_the_other(case: Case) -> None:
    files = DataFiles(case.write(ROWS[:15]), case.write(ROWS[15:], "validation"))
    joined = files.train.path.read_bytes() + (case.folder / "validation.jsonl").read_bytes()
    assert case.prepare(files).digest == hashlib.sha256(joined).hexdigest()


@pytest.mark.proves("output_features.preprocessing.missing_value_strategy[text]")
def test_rows_without_an_answer_are_dropped_counted_and_named(case: Case) -> None:
    data = case.prepare([*ROWS, {"question": "And?", "answer": None}, {"question": "Or?"}])
    assert data.counts.rows_read == 22
    assert data.counts.rows_dropped == data.counts.rows_dropped_missing_value == 2
    assert data.counts.rows_train + data.counts.rows_validation + data.counts.rows_test == 20
    assert "rows without a value were dropped: 2 in 'answer'" in case.warnings


@pytest.mark.proves("input_features.preprocessing.missing_value_strategy", "input_features.preprocessing.fill_value")
def test_a_missing_input_is_filled_with_what_is_written_else_with_nothing(case: Case) -> None:
    rows: list[dict[str, Any]] = [{"question": None, "answer": "x", "topic": "t"}, *ROWS]
    template = {"template": "[{question}]"}
    assert ("<s>[]", "x</s>") in all_texts(case.prepare(rows, prompt=template))
    assert any("filled by missing_value_strategy: 1 in 'question'" in warning for warning in case.warnings)
    filled = case.prepare(rows, prompt=template, input={"fill_value": "(none)"})
    assert ("<s>[(none)]", "x</s>") in all_texts(filled)
    assert filled.counts.values_filled == 1
    dropped = case.prepare(rows, prompt=template, input={"missing_value_strategy": "drop_row"})
    assert dropped.counts.rows_dropped == 1


@pytest.mark.proves("output_features.preprocessing.missing_value_strategy[text]")
def test_the_most_frequent_answer_fills_where_it_is_asked_for(case: Case) -> None:
    rows: list[dict[str, Any]] = [
        {"question": "1", "answer": "yes"},
        {"question": "2", "answer": "yes"},
        {"question": "3", "answer": None},
    ]
    data = case.prepare(rows, output={"missing_value_strategy": "fill_with_mode"})
    assert ("<s>3", "yes</s>") in all_texts(data)


@pytest.mark.proves("input_features.preprocessing.lowercase", "output_features.preprocessing.lowercase[text]")
def test_lower_case_is_for_the_data_and_leaves_the_template_alone(case: Case) -> None:
    rows = [{"question": "Is It BIG?", "answer": "YES"}]
    prompt = {"template": "[INST] {question:>12}"}
    data = case.prepare(rows, prompt=prompt, input={"lowercase": True}, output={"lowercase": True})
    assert all_texts(data) == [("<s>[INST]   is it big?", "yes</s>")]


@pytest.mark.proves(
    "output_features.name[category]",
    "output_features.preprocessing.fallback_label",
    "output_features.preprocessing.missing_value_strategy[category]",
)
def test_a_missing_category_is_the_fallback_label_and_counted(case: Case) -> None:
    config = {
        "base_model": "tiny",
        "input_features": [{"name": "question", "type": "text"}],
        "output_features": [
            {
                "name": "label",
                "type": "category",
                "preprocessing": {"fallback_label": "neutral"},
                "decoder": {
                    "type": "category_extractor",
                    "match": {"neutral": {"type": "contains", "value": "neutral"}},
                },
            }
        ],
        "prompt": None,
        "trainer": {"type": "none"},
    }
    files = DataFiles(case.write([{"question": "so so", "label": None}]))
    data = prepare_data(
        load_config(config),
        TOKENIZER,
        files,
        context_length=64,
        work_path=case.folder,
        seed=1,
        warn=case.warnings.append,
    )
    assert all_texts(data) == [("<s>so so", "neutral</s>")]
    assert data.counts.values_filled == 1


@pytest.mark.proves(
    "input_features.preprocessing.max_sequence_length",
    "output_features.preprocessing.max_sequence_length[text]",
    "preprocessing.global_max_sequence_length",
)
def test_the_three_lengths_and_the_models_own_each_cut(case: Case) -> None:
    rows = [{"question": "q" * 50, "answer": "a" * 50}]
    files = DataFiles(case.write(rows))

    def lengths(context_length: int = 512, **sections: Any) -> tuple[int, int]:
        data = case.prepare(files, context_length, **sections)
        assert data.counts.rows_truncated == (data.train.length(0) < 102)
        return int(data.train.prompt_lengths[0]), int(data.train.target_lengths[0])

    assert lengths() == (51, 51)
    assert lengths(input={"max_sequence_length": 20}) == (20, 51)
    assert lengths(output={"max_sequence_length": 20}) == (51, 20)
    assert lengths(preprocessing={"global_max_sequence_length": 80}) == (29, 51)
    assert lengths(60, preprocessing={"global_max_sequence_length": 80}) == (9, 51)
    assert any("1 of 1 rows were cut to length" in warning for warning in case.warnings)


def test_a_cut_prompt_keeps_its_bos_and_both_ends(case: Case) -> None:
    rows = [{"question": "begin" + "x" * 100 + "end", "answer": "yes"}]
    (pair,) = texts(case.prepare(rows, input={"max_sequence_length": 10}).train)
    assert pair == ("<s>begixxend", "yes</s>")


def test_no_target_token_left_names_the_length_and_what_to_raise(case: Case) -> None:
    message = case.refusal(ROWS, preprocessing={"global_max_sequence_length": 2})
    assert "no target token is left in any training row" in message
    assert "at most 2 tokens" in message
    assert "raise preprocessing.global_max_sequence_length" in message


def test_rows_without_room_for_a_target_are_dropped_and_counted(case: Case) -> None:
    rows = [{"question": "", "answer": "yes"}, *ROWS]
    data = case.prepare(
        rows, preprocessing={"global_max_sequence_length": 2, "split": {"type": "random", "probabilities": [1, 0, 0]}}
    )
    assert (data.counts.rows_train, data.counts.rows_dropped_no_target, data.counts.rows_dropped) == (1, 20, 20)


def test_a_missing_column_names_the_columns_there_are_and_the_nearest_in_every_file(case: Case) -> None:
    files = DataFiles(
        case.write([{"Question": "1", "anwser": "2"}]), case.write([{"question": "1", "reply": "2"}], "validation")
    )
    message = case.refusal(files, prompt={"template": "{question} {topic}"})
    assert "train.jsonl: no column 'question' (is it 'Question'?), 'topic', 'answer' (is it 'anwser'?)" in message
    assert "the columns there are: 'Question', 'anwser'" in message
    assert "validation.jsonl: no column 'topic', 'answer'; the columns there are: 'question', 'reply'" in message


def test_a_split_column_that_is_not_there_is_a_missing_column(case: Case) -> None:
    assert "no column 'when'" in case.refusal(ROWS, preprocessing={"split": {"type": "datetime", "column": "when"}})


def test_a_task_without_its_input_column_says_what_the_prompt_shows(case: Case) -> None:
    rows = [{"a": "1", "b": "2", "answer": "3"}] * 10
    data = case.prepare(rows, prompt={"task": "Add."})
    assert data.examples[0].prompt == "Add.\n\nInput:\na: 1\nb: 2\nOutput:\n"
    assert any("no column 'question': the prompt shows 'a', 'b'" in warning for warning in case.warnings)


def test_answers_missing_in_every_row_are_named(case: Case) -> None:
    message = case.refusal([{"question": "1", "answer": None}] * 3)
    assert message == "no training row is left: 3 rows were read; dropped for a missing value: 3 in 'answer'"


@pytest.mark.proves("preprocessing.split.column[fixed]")
def test_a_fixed_split_without_training_rows_is_named(case: Case) -> None:
    rows = [{**row, "split": 2} for row in ROWS]
    message = case.refusal(rows, preprocessing={"split": {"type": "fixed", "column": "split"}})
    assert "into test: 20" in message


@pytest.mark.proves("prompt.retrieval.type", "prompt.retrieval.k")
def test_random_examples_come_from_other_training_rows_only(case: Case) -> None:
    files = DataFiles(case.write(ROWS[:10]), case.write(ROWS[10:], "validation"))
    prompt = {"template": "{__context__}\n\n{question}", "retrieval": {"type": "random", "k": 2}}
    data = case.prepare(files, prompt=prompt)
    training_questions = {row["question"] for row in ROWS[:10]}
    for text, _ in (*texts(data.train), *texts(data.validation)):
        *context, question = text.removeprefix("<s>").split("\n\n")
        shown = [block.split("\n")[1] for block in context]
        assert len(shown) == 2
        assert set(shown) <= training_questions - {question}


def test_more_examples_than_training_rows_is_said(case: Case) -> None:
    case.prepare(ROWS[:4], prompt={"template": "{__context__} {question}", "retrieval": {"type": "random", "k": 9}})
    assert any("prompt.retrieval.k is 9" in warning for warning in case.warnings)


def test_a_long_file_leaves_as_one_stream(case: Case) -> None:
    data = case.prepare([{"question": str(n), "answer": str(n)} for n in range(3001)])
    assert data.counts.rows_read == 3001
    assert sorted(int(prompt.removeprefix("<s>")) for prompt, _ in all_texts(data)) == list(range(3001))
    assert data.train.example(0).token_ids[0] == BOS
