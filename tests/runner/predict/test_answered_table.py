"""A dataset in, the same dataset with predictions out: order, columns, row count, errors and figures."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import torch
from llm_api.config import Generation
from llm_runner.errors import ConfigInvalid, DataInvalid, Stopped
from llm_runner.generate.decode import Decoder, Request
from llm_runner.generate.labels import LabelTexts
from llm_runner.generate.likelihood import label_probabilities, measure_loss
from llm_runner.generate.limits import AnswerLimits
from llm_runner.generate.metrics import measure_labels
from llm_runner.store.publish import is_s3
from transformers import AutoModelForCausalLM

from tests.support.models import CONTEXT_LENGTH, tiny_tokenizer
from tests.support.predictions import (
    CATEGORY,
    MATCH,
    MOOD,
    TEXT,
    build_rows,
    build_run,
    read_output,
    read_report,
    run_predict,
    write_jsonl,
)
from tests.support.runs import Messages
from tests.support.s3 import S3Server

LABELS = list(MATCH)


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return loaded.eval()


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own number type would be bfloat16, in which batches differ by rounding."""
    monkeypatch.setattr("llm_runner.predict.load.choose_dtype", lambda *_: torch.float32)


def token_ids(text: str) -> list[int]:
    return list(tiny_tokenizer()(text)["input_ids"])


def answer_alone(model: Any, prompt: str, **generation: Any) -> str:
    written = Generation(**{**TEXT["generation"], **generation})  # type: ignore[dict-item]
    decoder = Decoder(model, tiny_tokenizer(), written, AnswerLimits(written, CONTEXT_LENGTH))
    [[tokens]] = decoder.answer([Request(token_ids(prompt))])
    return str(tiny_tokenizer().decode(tokens, skip_special_tokens=True))


def test_each_row_gets_the_models_answer_and_keeps_its_columns_and_its_place(
    base: Path, model: Any, tmp_path: Path
) -> None:
    rows = build_rows(20, note=None, tags=["a", "ß"])
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    outcome = run_predict(build_run(base, data, tmp_path / "out" / "answers.jsonl"), tmp_path / "work")
    found = read_output(tmp_path / "out" / "answers.jsonl")
    expected = [answer_alone(model, f"Q: {row['question']}\nA:") for row in rows]
    assert [row["answer_predictions"] for row in found] == expected
    assert [{key: row[key] for key in rows[0]} for row in found] == rows
    assert list(found[0]) == ["id", "question", "note", "tags", "answer_predictions", "answer_error"]
    assert (outcome.reason, outcome.last_step, outcome.metrics["rows"]) == ("Succeeded", 20, 20)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["answers.jsonl", "answers.jsonl.report.json"]


@pytest.mark.parametrize(
    "generation",
    [
        {"num_beams": 3},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    ],
    ids=["beams", "contrastive", "diverse"],
)
def test_searches_answer_each_row_as_alone(base: Path, model: Any, tmp_path: Path, generation: dict[str, Any]) -> None:
    rows = [{"question": "x" * length} for length in (3, 40, 7, 1, 22, 9, 30, 2, 4, 15)]
    config = {**TEXT, "generation": {**TEXT["generation"], **generation}}  # type: ignore[dict-item]
    run_predict(
        build_run(base, write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", config), tmp_path / "w"
    )
    found = [row["answer_predictions"] for row in read_output(tmp_path / "out.jsonl")]
    assert found == [answer_alone(model, f"Q: {row['question']}\nA:", **generation) for row in rows]


def test_labels_come_with_the_probability_of_each_and_figures_over_all(base: Path, model: Any, tmp_path: Path) -> None:
    rows = [{**row, "mood": LABELS[row["id"] % 3]} for row in build_rows(12)]
    rows[3]["mood"] = None
    rows[5]["mood"] = "furious"
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    outcome = run_predict(build_run(base, data, tmp_path / "out.parquet", CATEGORY), tmp_path / "work")
    found = read_output(tmp_path / "out.parquet")
    ways = {label: (tuple(token_ids(m["value"])), tuple(token_ids(f" {m['value']}"))) for label, m in MATCH.items()}
    assert LabelTexts(ways).longest == 5
    for row in found:
        [expected] = label_probabilities(model, [token_ids(f"Q: {row['question']}\nA:")], ways)
        assert row["mood_probabilities"] == pytest.approx(expected, rel=1e-3)
        assert row["mood_probability"] == row["mood_probabilities"][row["mood_predictions"]]
        assert row["mood_response"].strip() == MATCH[row["mood_predictions"]]["value"]
    known = ["neutral" if row["mood"] is None else row["mood"] for row in rows]
    measured = measure_labels(known, [row["mood_predictions"] for row in found], [*LABELS, "furious"])
    report = read_report(tmp_path / "out.parquet")
    assert report["accuracy"] == measured.accuracy == outcome.metrics["accuracy"]
    assert report["confusion"] == measured.confusion
    assert report["labels"] == [*LABELS, "furious"]
    assert {label: outcome.metrics[f"recall.{label}"] for label in measured.recall} == measured.recall
    assert {label: outcome.metrics[f"precision.{label}"] for label in measured.precision} == measured.precision


def test_text_is_measured_where_the_answer_is_known(base: Path, model: Any, tmp_path: Path) -> None:
    rows = build_rows(12)
    for row in rows[:9]:
        row["answer"] = answer_alone(model, f"Q: {row['question']}\nA:") if row["id"] < 3 else f"in room {row['id']}"
    outcome = run_predict(
        build_run(base, write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.csv"), tmp_path / "w"
    )
    prompts = [token_ids(f"Q: {row['question']}\nA:") for row in rows[:9]]
    answers = [[*token_ids(row["answer"]), 1] for row in rows[:9]]
    expected = measure_loss(model, prompts, answers, batch_size=4)
    assert outcome.metrics["measured_rows"] == 9
    assert outcome.metrics["exact_match"] == pytest.approx(3 / 9)
    assert outcome.metrics["loss"] == pytest.approx(expected.loss, rel=1e-4)
    assert outcome.metrics["perplexity"] == pytest.approx(math.exp(expected.loss), rel=1e-3)
    assert 0 < outcome.metrics["rouge_l"] <= 1


def test_a_dataset_without_answers_has_predictions_and_no_figures(base: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", build_rows(3))
    outcome = run_predict(build_run(base, data, tmp_path / "out.jsonl", CATEGORY), tmp_path / "work")
    assert set(outcome.metrics) == {"rows", "failed_rows", "cut_rows"}


def test_a_row_that_can_not_be_asked_keeps_its_place_and_says_why(base: Path, tmp_path: Path) -> None:
    rows = build_rows(5)
    rows[1]["question"] = "x" * 300
    config = {**TEXT, "input_features": [{"name": "prompt", "type": "text"}]}
    outcome = run_predict(
        build_run(base, write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", config), tmp_path / "work"
    )
    found = read_output(tmp_path / "out.jsonl")
    assert [row["answer_predictions"] is None for row in found] == [False, True, False, False, False]
    assert found[1]["answer_error"].startswith(f"the prompt has {len(token_ids('Q: ' + 'x' * 300)) + 3} tokens")
    assert [row["answer_error"] for row in found if row["id"] != 1] == [None] * 4
    assert outcome.metrics["failed_rows"] == 1
    assert outcome.message == "1 of 5 rows could not be answered; their error column says why"


def test_a_pattern_that_comes_to_no_end_is_the_error_of_its_rows_only(base: Path, tmp_path: Path) -> None:
    slow = {"slow": {"type": "regex", "value": "(.|..)+\\d{9}$"}, **MATCH}
    decoder = {"match": slow}
    config = {
        **TEXT,
        "output_features": [{**MOOD, "decoder": decoder}],
        "generation": {"do_sample": False, "max_new_tokens": 60, "min_new_tokens": 60},
    }
    data = write_jsonl(tmp_path / "rows.jsonl", build_rows(1))
    with pytest.raises(DataInvalid, match="took more than 1 s"):
        run_predict(build_run(base, data, tmp_path / "out.jsonl", config), tmp_path / "work")
    assert "decoder.match.slow" in read_output(tmp_path / "out.jsonl")[0]["mood_error"]


def test_a_prompt_is_cut_to_the_length_that_the_config_writes_and_that_is_counted(
    base: Path, model: Any, tmp_path: Path
) -> None:
    config = {**TEXT, "input_features": [{"name": "p", "type": "text", "preprocessing": {"max_sequence_length": 20}}]}
    rows = [{"question": "short"}, {"question": "y" * 100}]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    outcome = run_predict(build_run(base, data, tmp_path / "out.jsonl", config), tmp_path / "work")
    cut = f"Q: {'y' * 7}{'y' * 7}\nA:"
    assert len(token_ids(cut)) == 20
    assert read_output(tmp_path / "out.jsonl")[1]["answer_predictions"] == answer_alone(model, cut)
    assert outcome.metrics["cut_rows"] == 1


def test_missing_values_are_filled_as_the_input_says_or_the_row_says_why_not(base: Path, tmp_path: Path) -> None:
    rows = [{"question": "What?"}, {"question": None}]

    def predicted(**preprocessing: Any) -> dict[str, Any]:
        config = {**TEXT, "input_features": [{"name": "p", "type": "text", "preprocessing": preprocessing}]}
        data = write_jsonl(tmp_path / "rows.jsonl", rows)
        run_predict(build_run(base, data, tmp_path / "out.jsonl", config), tmp_path / "work")
        return read_output(tmp_path / "out.jsonl")[1]

    filled = predicted(fill_value="What?")
    assert filled["answer_predictions"] == read_output(tmp_path / "out.jsonl")[0]["answer_predictions"]
    assert filled["question"] is None
    assert "no value in column 'question'" in predicted(missing_value_strategy="drop_row")["answer_error"]


def test_csv_keeps_texts_as_they_are_and_parquet_keeps_types(base: Path, tmp_path: Path) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["zip", "question", "gap"], ["01234", 'say "hi",\nyou', ""], ["x", "y", "z"]])
    run_predict(build_run(base, tmp_path / "rows.csv", tmp_path / "out.csv"), tmp_path / "work")
    found = read_output(tmp_path / "out.csv")
    assert [(row["zip"], row["question"], row["gap"]) for row in found] == [
        ("01234", 'say "hi",\nyou', ""),
        ("x", "y", "z"),
    ]
    schema = pa.schema(
        [("question", pa.large_string()), ("at", pa.timestamp("ms", "UTC")), ("many", pa.list_(pa.int8()))]
    )
    rows = [{"question": "a", "at": 86_400_000, "many": [1, 2]}, {"question": "b", "at": None, "many": None}]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "rows.parquet")
    run_predict(build_run(base, tmp_path / "rows.parquet", tmp_path / "out.parquet"), tmp_path / "work")
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.schema.names == [*schema.names, "answer_predictions", "answer_error"]
    assert written.select(schema.names).equals(pq.read_table(tmp_path / "rows.parquet"))


def test_json_of_several_kinds_in_a_column_becomes_text_in_parquet(base: Path, tmp_path: Path) -> None:
    rows = [{"question": "a", "n": 1, "mixed": 1, "deep": {"b": [2]}}, {"question": "b", "n": 2, "mixed": "x"}]
    run_predict(build_run(base, write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"), tmp_path / "work")
    found = read_output(tmp_path / "out.parquet")
    assert [(row["n"], row["mixed"], row["deep"]) for row in found] == [(1, "1", '{"b": [2]}'), (2, "x", None)]


def test_shards_share_the_rows_and_the_last_one_merges(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", build_rows(10))
    run_predict(build_run(base, data, tmp_path / "whole.jsonl"), tmp_path / "work")
    run = build_run(base, data, tmp_path / "out.jsonl", shards=3)
    outcomes = []
    for shard in (2, 0, 1):
        assert not (tmp_path / "out.jsonl").exists()
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(shard))
        outcomes.append(run_predict(run, tmp_path / f"work-{shard}"))
    assert [outcome.metrics["rows"] for outcome in outcomes] == [3, 4, 10]
    assert "the one that ends last merges" in outcomes[0].message
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "out.jsonl.parts").exists()


def test_drawn_answers_are_the_same_however_many_shards_there_are(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**TEXT, "generation": {"do_sample": True, "temperature": 1.5, "max_new_tokens": 6}}
    data = write_jsonl(tmp_path / "rows.jsonl", build_rows(6))
    run_predict(build_run(base, data, tmp_path / "whole.jsonl", config), tmp_path / "work")
    for shard in (0, 1):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(shard))
        run_predict(build_run(base, data, tmp_path / "out.jsonl", config, shards=2), tmp_path / "work")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_run_that_is_over_is_not_run_again_but_an_edited_one_is(base: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", build_rows(3))
    run = build_run(base, data, tmp_path / "out.jsonl")
    first = run_predict(run, tmp_path / "work")
    written_at = (tmp_path / "out.jsonl").stat().st_mtime_ns
    messages = Messages()
    again = run_predict(run, tmp_path / "work", messages)
    assert (again.artifact_digest, again.metrics) == (first.artifact_digest, first.metrics)
    assert "nothing is left to do" in "".join(messages.texts)
    assert (tmp_path / "out.jsonl").stat().st_mtime_ns == written_at
    (tmp_path / "out.jsonl").unlink()
    assert run_predict(run, tmp_path / "work").artifact_digest == first.artifact_digest
    edited = {**TEXT, "generation": {"do_sample": False, "max_new_tokens": 2}}
    assert run_predict(build_run(base, data, tmp_path / "out.jsonl", edited), tmp_path / "work").artifact_digest != (
        first.artifact_digest
    )


def test_a_run_that_is_stopped_keeps_what_is_finished_and_goes_on(base: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", build_rows(60))
    run_predict(build_run(base, data, tmp_path / "whole.jsonl"), tmp_path / "work")
    run = build_run(base, data, tmp_path / "out.jsonl")
    asked = iter(range(200))
    with pytest.raises(Stopped, match=r"stopped; \d+ of 60 rows are kept"):
        run_predict(run, tmp_path / "work", should_stop=lambda: next(asked, None) is None)
    outcome = run_predict(run, tmp_path / "work")
    assert outcome.resumed_from_step is not None
    assert 0 < outcome.resumed_from_step < 60
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_data_and_predictions_lie_in_s3(
    base: Path, tmp_path: Path, keys: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = build_rows(9)
    write_jsonl(keys.folder / "data" / "rows.jsonl", rows)
    run = build_run(base, "s3://data/rows.jsonl", "s3://data/out/answers.parquet", s3=keys.settings, shards=2)
    assert is_s3(run.output_uri)
    for shard in (1, 0):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(shard))
        outcome = run_predict(run, tmp_path / f"work-{shard}")
    assert (outcome.artifact_uri, outcome.metrics["rows"]) == ("s3://data/out/answers.parquet", 9)
    found = read_output(keys.folder / "data" / "out" / "answers.parquet")
    assert [row["id"] for row in found] == list(range(9))
    assert all(row["answer_predictions"] is not None for row in found)
    names = sorted(path.name for path in (keys.folder / "data" / "out").rglob("*") if path.is_file())
    assert names == ["answers.parquet", "answers.parquet.report.json"]
    again = run_predict(run, tmp_path / "again")
    assert again.artifact_digest == outcome.artifact_digest


@pytest.mark.parametrize(
    ("rows", "config", "output", "error", "told"),
    [
        ([{"qestion": "a"}], TEXT, "out.jsonl", DataInvalid, "no column 'question' \\(is it 'qestion'\\?\\)"),
        ([{"question": "a", "answer_error": 1}], TEXT, "out.jsonl", DataInvalid, "'answer_error'; rename"),
        ([{"question": "a"}], TEXT, "out.txt", ConfigInvalid, "end the name in .parquet, .jsonl or .csv"),
        (
            [{"question": "a"}],
            {"prompt": TEXT["prompt"]},
            "out.jsonl",
            ConfigInvalid,
            "input_features and output_features",
        ),
    ],
)
def test_what_can_not_work_is_said_before_the_model_is_loaded(
    base: Path, tmp_path: Path, rows: Any, config: Any, output: str, error: type[Exception], told: str
) -> None:
    (base / "config.json").stat()
    run = build_run(base, write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / output, config)
    with pytest.raises(error, match=told):
        run_predict(run, tmp_path / "work")
    assert json.loads((tmp_path / "in.jsonl").read_text().splitlines()[0]) == rows[0]


@pytest.mark.parametrize("index", [None, "3", "x"])
def test_a_shard_without_a_number_of_its_own_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str | None
) -> None:
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    if index is not None:
        monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
    run = build_run(base, write_jsonl(tmp_path / "in.jsonl", build_rows(2)), tmp_path / "out.jsonl", shards=3)
    with pytest.raises(ConfigInvalid, match="JOB_COMPLETION_INDEX"):
        run_predict(run, tmp_path / "work")
