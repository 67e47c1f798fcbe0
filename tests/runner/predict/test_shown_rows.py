"""Solved training rows in the prompts of a fine-tuned model: those that training showed, over HTTP and in batches."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llm_runner.errors import ConfigInvalid

from tests.support import predictions, runs
from tests.support.models import tiny_tokenizer
from tests.support.servers import RunningServer
from tests.support.shown_rows import batch_of, prompt_of, serving, training_prompts
from tests.support.smollm2 import smollm2_path

LORA = {"adapter": {"type": "lora", "r": 2}, "generation": {"do_sample": False, "max_new_tokens": 6}}
TRAINER = {"type": "finetune", "batch_size": 8, "train_steps": 1, "learning_rate": 1e-6}
FEW = {"template": "{__context__}\n\n{question}", "retrieval": {"type": "random", "k": 2}}
KETTLES = [f"Where is kettle {number}?" for number in (0, 7, 14)]


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A fine-tune that has ended."""
    folder = tmp_path_factory.mktemp("examples")
    run = runs.build_run(folder, base, {**LORA, "trainer": TRAINER, "prompt": FEW}, seed=7)
    runs.run_train(run, folder / "work")
    return run


@pytest.fixture(scope="module")
def server(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(run, tmp_path_factory.mktemp("server")) as running:
        yield running


def refusal(run: Any, artifact: Path, folder: Path, config: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        predictions.run_predict(batch_of(run, artifact, folder, KETTLES, config), folder / "work")
    return str(caught.value)


def copy_artifact(run: Any, folder: Path) -> Path:
    return Path(shutil.copytree(run.output_uri, folder / "copy", ignore=shutil.ignore_patterns("SHA256SUMS")))


def test_a_training_row_is_asked_as_it_was_in_training(server: RunningServer, run: Any, tmp_path: Path) -> None:
    expected = training_prompts(run, tmp_path)
    found = [prompt_of(server, {"question": prompt.split("\n\n")[-1]}) for prompt in expected]
    assert found == expected
    assert all(prompt.count("Output:\nThe ") == 2 for prompt in found)


def test_over_http_a_row_is_asked_with_two_examples_and_never_with_itself(server: RunningServer) -> None:
    for question in KETTLES:
        answer = server.post("/v1/predict", {"rows": [{"question": question}]})
        assert answer.status == 200, answer.text
        prompt = prompt_of(server, {"question": question})
        assert answer.body["usage"]["prompt_tokens"] == len(tiny_tokenizer()(prompt)["input_ids"])
        assert prompt.count(question) == 1


def test_an_answer_in_the_row_changes_nothing_of_its_prompt(server: RunningServer) -> None:
    rows = [{"question": KETTLES[0]}, {"question": KETTLES[0], "answer": "The kettle is in room 0."}]
    assert prompt_of(server, rows[0]) == prompt_of(server, rows[1])


def test_a_batch_answers_as_the_server_does(server: RunningServer, run: Any, tmp_path: Path) -> None:
    predictions.run_predict(batch_of(run, run.output_uri, tmp_path, KETTLES), tmp_path / "work")
    found = [row["answer_predictions"] for row in predictions.read_output(tmp_path / "out.jsonl")]
    body = {"rows": [{"question": question} for question in KETTLES]}
    assert found == [row["value"] for row in server.post("/v1/predict", body).body["predictions"]]


def test_an_artifact_without_kept_rows_says_so(run: Any, tmp_path: Path) -> None:
    copy = copy_artifact(run, tmp_path)
    (copy / "examples.json").unlink()
    assert "examples.json is missing" in refusal(run, copy, tmp_path)


@pytest.mark.parametrize(
    "damage",
    ["{", "[]", '{"seed": 1, "columns": ["question", "answer"], "rows": []}',
     '{"seed": 1, "columns": ["question", "answer"], "rows": [["only one"]]}',
     '{"seed": 1, "columns": ["question", "answer"], "rows": ["ab"]}', '{"columns": ["question"], "rows": [["q"]]}'],
)  # fmt: skip
def test_damaged_rows_are_named(run: Any, tmp_path: Path, damage: str) -> None:
    copy = copy_artifact(run, tmp_path)
    (copy / "examples.json").write_text(damage)
    assert "examples.json is damaged" in refusal(run, copy, tmp_path)


def test_a_prompt_of_a_column_that_was_not_kept_names_those_that_were(run: Any, tmp_path: Path) -> None:
    other = {"prompt": {**FEW, "template": "{__context__} {question} {topic}"}}
    message = refusal(run, Path(run.output_uri), tmp_path, other)
    assert "have no 'topic'" in message
    assert "they have 'question', 'answer'" in message


def test_without_an_artifact_there_is_nothing_to_show(run: Any, tmp_path: Path) -> None:
    data = predictions.write_jsonl(tmp_path / "in.jsonl", [{"question": KETTLES[0]}])
    config = {**predictions.TEXT, "prompt": FEW}
    alone = predictions.build_run(Path(run.config.base_model), data, tmp_path / "out.jsonl", config)
    with pytest.raises(ConfigInvalid, match="there is no artifact here"):
        predictions.run_predict(alone, tmp_path / "work")


def test_the_rows_that_are_kept_are_those_that_train(run: Any) -> None:
    stored = json.loads((Path(run.output_uri) / "examples.json").read_text("utf-8"))
    assert [cells[0] for cells in stored["rows"]] == [
        f"Where is {runs.WORDS[number % len(runs.WORDS)]} {number}?" for number in range(24)
    ]


def test_a_real_model_answers_as_the_examples_do(tmp_path: Path) -> None:
    """Every example answers with the same made-up word, which no model says unless it was shown it."""
    template = "{__task__}\n\n{__context__}\n\nInput:\n{question}\nOutput:\n"
    prompt = {**FEW, "task": "Answer.", "template": template}
    config = {**LORA, "trainer": {**TRAINER, "batch_size": 4}, "prompt": prompt}
    run = runs.build_run(tmp_path, smollm2_path(), config, hold_out=0)
    questions = "".join(f"Where is lamp {number}?,zorblat\n" for number in range(6))
    (tmp_path / "train.csv").write_text(f"question,answer\n{questions}")
    runs.run_train(run, tmp_path / "work")
    answers = {}
    bare = {"prompt": {"template": "Input:\n{question}\nOutput:\n"}}
    for name, written in {"few": {}, "none": bare}.items():
        (tmp_path / name).mkdir()
        batch = batch_of(run, run.output_uri, tmp_path / name, KETTLES, written)
        predictions.run_predict(batch, tmp_path / name / "work")
        found = predictions.read_output(tmp_path / name / "out.jsonl")
        answers[name] = [row["answer_predictions"].strip() for row in found]
    assert all(answer.startswith("zorblat") for answer in answers["few"])
    assert not any("zorblat" in answer for answer in answers["none"])
