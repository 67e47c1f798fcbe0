"""``trainer: {type: none}``: a prompt is measured on the hold-out, and stored with the rows that it shows."""

import json
import shutil
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import torch
from llm_api.report import Outcome
from llm_api.run import DataLocation, TrainRun
from llm_runner.errors import DataInvalid, Stopped
from llm_runner.predict.untrained import measure_untrained
from llm_runner.report.reporter import Reporter
from llm_runner.report.sink import Sink
from llm_runner.store.digest import check_sums
from llm_runner.store.s3 import list_objects, s3_client
from llm_runner.store.uri import parse_s3

from tests.support import predictions, runs
from tests.support.s3 import S3Server
from tests.support.shown_rows import batch_of, prompt_of, serving

GREEDY = {"do_sample": False, "max_new_tokens": 6}
SHOWN = {"template": "{__context__}\n\nInput:\n{question}\nOutput:\n", "retrieval": {"type": "random", "k": 2}}
NONE = {"trainer": {"type": "none"}, "generation": GREEDY}


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_runner.predict.load.choose_dtype", lambda *_: torch.float32)


class Phases(Sink):
    def __init__(self) -> None:
        self.told: list[str] = []

    def phase(self, progress: Any) -> None:
        self.told.append(progress.phase)


class Steps(Sink):
    def __init__(self) -> None:
        self.seen: list[int] = []

    def step(self, progress: Any) -> None:
        self.seen.append(progress.step)


def measure(run: TrainRun, folder: Path, *sinks: Sink, should_stop: Callable[[], bool] = lambda: False) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    return measure_untrained(run, reporter=Reporter(list(sinks)), work_path=folder, should_stop=should_stop)


def build(folder: Path, base: Path, config: Mapping[str, Any], **fields: Any) -> TrainRun:
    return runs.build_run(folder, base, {**NONE, **config}, **fields)


@pytest.fixture(scope="module")
def shown_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainRun:
    folder = tmp_path_factory.mktemp("shown")
    run = build(folder, base, {"prompt": SHOWN})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm_runner.predict.load.choose_dtype", lambda *_: torch.float32)
        measure(run, folder / "work")
    return run


def stored_predictions(run: TrainRun) -> list[dict[str, Any]]:
    return predictions.read_output(Path(run.output_uri) / "predictions.jsonl")


@pytest.mark.proves("trainer.type")
def test_the_hold_out_is_answered_as_a_batch_of_the_model_as_it_is_answers_it(base: Path, tmp_path: Path) -> None:
    run = build(tmp_path, base, {"prompt": {"template": "Q: {question}\nA:"}})
    phases = Phases()
    outcome = measure(run, tmp_path / "work", phases)
    assert phases.told == ["Preparing", "Evaluating", "Storing"]
    config = {**predictions.TEXT, "input_features": [{"name": "question", "type": "text"}], "generation": GREEDY}
    assert run.dataset.validation is not None
    batch = predictions.build_run(base, run.dataset.validation.uri, tmp_path / "batch.jsonl", config)
    asked = predictions.run_predict(batch, tmp_path / "asked")
    assert stored_predictions(run) == predictions.read_output(tmp_path / "batch.jsonl")
    assert outcome.metrics == {f"eval.{name}": value for name, value in asked.metrics.items()}
    assert {"eval.loss", "eval.perplexity", "eval.exact_match", "eval.rouge_l"} < outcome.metrics.keys()
    assert "nothing was trained" in outcome.message


def test_what_is_stored_is_whole_and_holds_no_weights(shown_run: TrainRun) -> None:
    folder = Path(shown_run.output_uri)
    check_sums(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "SHA256SUMS", "columns.json", "examples.json", "llm_config.yaml", "metrics.json",
        "predictions.jsonl",
    ]  # fmt: skip
    metrics = runs.read_metrics(folder)
    assert (metrics["rows_train"], metrics["rows_validation"], metrics["eval"]["rows"]) == (24, 6, 6)
    assert metrics["eval"]["split"] == "validation"
    answers = [row["answer_predictions"] for row in stored_predictions(shown_run)]
    assert all(f"Answered:\n\n```\n{answer}\n```" in (folder / "README.md").read_text() for answer in answers[:3])


def test_rows_are_shown_to_batches_and_servers_as_they_were_to_the_hold_out(
    shown_run: TrainRun, tmp_path: Path
) -> None:
    answers = {row["question"]: row["answer_predictions"] for row in stored_predictions(shown_run)}
    predictions.run_predict(batch_of(shown_run, shown_run.output_uri, tmp_path, answers), tmp_path / "work")
    found = predictions.read_output(tmp_path / "out.jsonl")
    assert [row["answer_predictions"] for row in found] == list(answers.values())
    card = (Path(shown_run.output_uri) / "README.md").read_text()
    with serving(shown_run, tmp_path / "served") as server:
        answer = server.post("/v1/predict", {"rows": [{"question": question} for question in answers]})
        assert [row["value"] for row in answer.body["predictions"]] == list(answers.values())
        for question in list(answers)[:3]:
            prompt = prompt_of(server, {"question": question})
            assert prompt.count("Output:\n") == 3
            assert prompt.strip() in card


def test_labels_get_accuracy_precision_recall_and_a_confusion_matrix(base: Path, tmp_path: Path) -> None:
    mood = {**predictions.MOOD, "column": "mood"}
    run = build(tmp_path, base, {"output_features": [mood], "prompt": {"template": "Q: {question}\nA:"}})
    labels = list(predictions.MATCH)
    for name, count in (("train", 9), ("validation", 6)):
        rows = "".join(f"Is {name} {number} fine?,{labels[number % 3]}\n" for number in range(count))
        (tmp_path / f"{name}.csv").write_text(f"question,mood\n{rows}")
    outcome = measure(run, tmp_path / "work")
    report = runs.read_metrics(Path(run.output_uri))["eval"]
    given = [row["mood_predictions"] for row in stored_predictions(run)]
    right = [row["mood"] for row in stored_predictions(run)]
    pairs = list(zip(right, given, strict=True))
    assert outcome.metrics["eval.accuracy"] == report["accuracy"] == sum(a == b for a, b in pairs) / 6
    assert report["confusion"] == [[pairs.count((a, b)) for b in report["labels"]] for a in report["labels"]]
    assert {f"eval.{kind}.{label}" for kind in ("precision", "recall") for label in labels} < outcome.metrics.keys()


def test_a_stopped_run_goes_on_with_the_answers_that_it_has(
    base: Path, keys: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_runner.predict.shard.SAVE_ROWS", 2)
    place: dict[str, Any] = {"checkpoint_uri": "s3://data/runs/none", "s3": keys.settings}
    run = build(tmp_path, base, {}, hold_out=200, **place)
    first, second = Steps(), Steps()
    with pytest.raises(Stopped, match=r"; [1-9]\d* of 200 rows are kept"):
        measure(run, tmp_path / "first", first, should_stop=lambda: len(first.seen) > 10)
    measure(run, tmp_path / "second", second)
    assert second.seen[0] > 10
    assert len(stored_predictions(run)) == 200
    assert list_objects(s3_client(keys.settings), parse_s3("s3://data/runs/none")) == {}


def test_without_a_hold_out_the_prompt_is_stored_and_it_is_said_that_nothing_is_measured(
    base: Path, tmp_path: Path
) -> None:
    split = {"split": {"type": "random", "probabilities": [1.0, 0.0, 0.0]}}
    run = build(tmp_path, base, {"prompt": SHOWN, "preprocessing": split}, hold_out=0)
    messages = runs.Messages()
    outcome = measure(run, tmp_path / "work", messages)
    assert outcome.metrics == {}
    assert any(text.startswith("warning: nothing is held out") for text in messages.texts)
    assert (Path(run.output_uri) / "examples.json").is_file()


@pytest.mark.proves("preprocessing.split.column[fixed]")
def test_the_split_column_is_no_part_of_what_is_asked(base: Path, tmp_path: Path) -> None:
    """Training leaves it out of ``{__sample__}``; so does what is measured, and what is asked later."""
    rows = "".join(f"a{number},b{number},c,{number % 2}\n" for number in range(8))
    prompt = {"input_features": [{"name": "question", "type": "text"}], "prompt": {"task": "Answer."}}
    split = {"split": {"type": "fixed", "column": "part"}}
    run = build(tmp_path, base, {**prompt, "preprocessing": split}, hold_out=0)
    (tmp_path / "train.csv").write_text(f"one,two,answer,part\n{rows}")
    measure(run, tmp_path / "work")
    card = (Path(run.output_uri) / "README.md").read_text()
    assert "one: a1\ntwo: b1" in card
    assert "part: 1" not in card
    assert json.loads((Path(run.output_uri) / "columns.json").read_text())["columns"] == ["one", "two", "answer"]
    asked = predictions.write_jsonl(tmp_path / "in.jsonl", [{"one": "a1", "two": "b1"}])
    batch = predictions.build_run(base, asked, tmp_path / "out.jsonl", {}, model={"artifactUri": run.output_uri})
    predictions.run_predict(batch, tmp_path / "asked")
    [answered] = predictions.read_output(tmp_path / "out.jsonl")
    assert answered["answer_predictions"] == stored_predictions(run)[0]["answer_predictions"]


@pytest.mark.proves("trainer.type")
@pytest.mark.parametrize(("answer", "split", "asked"), [("Me.", "test", 3), ("", "validation", 6)])
def test_the_test_rows_are_asked_and_else_those_of_validation(
    answer: str, split: str, asked: int, base: Path, tmp_path: Path
) -> None:
    """Rows without an answer are dropped, so that none may be left."""
    run = build(tmp_path, base, {})
    test_rows = tmp_path / "test.csv"
    test_rows.write_text("question,answer\n" + f"Who?,{answer}\n" * 3)
    dataset = run.dataset.model_copy(update={"test": DataLocation(uri=str(test_rows))})
    measure(run.model_copy(update={"dataset": dataset}), tmp_path / "work")
    assert runs.read_metrics(Path(run.output_uri))["eval"]["split"] == split
    assert len(stored_predictions(run)) == asked


def test_data_without_the_answers_column_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    run = build(tmp_path, base, {"output_features": [{"name": "reply", "type": "text"}]})
    with pytest.raises(DataInvalid, match="no column 'reply'"):
        measure(run, tmp_path / "work")


def test_an_artifact_that_lost_its_weights_is_never_taken_for_a_prompt(
    shown_run: TrainRun, base: Path, tmp_path: Path
) -> None:
    """Only the stored config's own word makes one."""
    broken = Path(shutil.copytree(shown_run.output_uri, tmp_path / "broken"))
    config = (broken / "llm_config.yaml").read_text()
    (broken / "llm_config.yaml").write_text(config.replace("type: none", "type: finetune"))
    with pytest.raises(Exception, match=r"config\.json"):
        predictions.run_predict(batch_of(shown_run, broken, tmp_path, ["Who?"]), tmp_path / "work")


def test_the_command_runs_it_from_a_manifest_and_an_inference_follows_it(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from llm_runner.__main__ import main

    runs.write_rows(tmp_path / "rows.csv", 30)
    asked = predictions.write_jsonl(tmp_path / "asked.jsonl", [{"question": "Where is lamp 7?"}])
    volume = {"claimName": "files"}
    fine_tune = {
        "apiVersion": "llmoperator.dev/v1alpha1", "kind": "LLMFineTune", "metadata": {"name": "prompted"},
        "spec": {
            "config": {
                "base_model": str(base), "input_features": [{"name": "question", "type": "text"}],
                "output_features": [{"name": "answer", "type": "text"}], "prompt": SHOWN, **NONE,
            },
            "dataset": {"train": {"volume": {**volume, "path": "rows.csv"}}},
            "output": {"volume": {**volume, "path": "prompted"}},
        },
    }  # fmt: skip
    inference = {
        "apiVersion": "llmoperator.dev/v1alpha1", "kind": "LLMInference", "metadata": {"name": "answers"},
        "spec": {
            "model": {"fineTuneRef": {"name": "prompted"}},
            "batch": {
                "dataset": {"volume": {**volume, "path": asked.name}},
                "output": {"volume": {**volume, "path": "answers.jsonl"}},
            },
        },
    }  # fmt: skip
    for name, document in (("tune", fine_tune), ("ask", inference)):
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    options = ["--volume", f"files={tmp_path}"]
    assert main(["run", "-f", str(tmp_path / "tune.json"), *options]) == 0
    both = ["-f", str(tmp_path / "ask.json"), "-f", str(tmp_path / "tune.json")]
    assert main(["run", *both, *options]) == 0
    [row] = predictions.read_output(tmp_path / "answers.jsonl")
    assert row["answer_error"] is None
    assert row["answer_predictions"] is not None
    assert "nothing is trained" in capsys.readouterr().out


def test_dates_of_a_parquet_file_are_asked_in_the_format_that_the_template_has(base: Path, tmp_path: Path) -> None:
    run = build(tmp_path, base, {"prompt": {"template": "On {day:%d.%m.%Y}: {question}\nA:"}})
    rows = [{"day": date(2024, 5, 31), "question": f"Who is {number}?", "answer": "Me."} for number in range(3)]
    files = {name: tmp_path / f"{name}.parquet" for name in ("train", "validation")}
    for path in files.values():
        pq.write_table(pa.Table.from_pylist(rows), path)
    dataset = run.dataset.model_copy(update={name: DataLocation(uri=str(path)) for name, path in files.items()})
    measure(run.model_copy(update={"dataset": dataset}), tmp_path / "work")
    assert [row["answer_error"] for row in stored_predictions(run)] == [None] * 3
    assert "On 31.05.2024: Who is 0?" in (Path(run.output_uri) / "README.md").read_text()
