"""The examples as a user runs them on one machine, one after another: tune, serve, answer a dataset.

Their base is a tiny model of random weights under the name that they use, so what it says is noise.
"""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from socket import create_server

import pytest
from llm_api.report import ExitCode
from openai import NotFoundError, OpenAI

from tests.support.models import llama_config, save_model
from tests.support.predictions import read_output, read_report
from tests.support.repository import ROOT
from tests.support.runner_process import RunnerProcess, call_runner

EXAMPLES = ROOT / "examples"
TRAINED_ROWS, BATCH_ROWS = 24, 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a base and data, and what the example makes of them."""
    path = tmp_path_factory.mktemp("local")
    save_model(path / "models" / "SmolLM2-135M-Instruct", llama_config(max_position_embeddings=1024))
    (path / "tickets").mkdir()
    for name, rows in (("train.jsonl", TRAINED_ROWS), ("validation.jsonl", BATCH_ROWS)):
        lines = (EXAMPLES / "data" / "support-tickets" / name).read_text().splitlines(keepends=True)
        (path / "tickets" / name).write_text("".join(lines[:rows]))
    code, errors, _ = call_runner(path, *build_command("finetune.yaml"))
    assert code == ExitCode.DONE, errors
    return path


def build_command(*examples: str) -> list[str]:
    """As their first lines say."""
    files = [part for example in examples for part in ("-f", str(EXAMPLES / example))]
    volumes = ("models=models", "tickets=tickets", "artifacts=out")
    return ["run", *files, *(part for volume in volumes for part in ("--volume", volume))]


def test_the_tuned_model_is_asked_rows_of_the_hold_out_before_it_is_stored(folder: Path) -> None:
    (answers,) = (folder / "out").rglob("hold_out_answers.jsonl")
    rows = [json.loads(line) for line in answers.read_text("utf-8").splitlines()]
    lines = (folder / "tickets" / "validation.jsonl").read_text("utf-8").splitlines()
    assert [row["target"] for row in rows] == [json.loads(line)["answer"] for line in lines][:8]
    assert all("answer" in row for row in rows)
    assert json.loads((answers.parent / "metrics.json").read_text())["eval"]["sample_rows"] == 8


@pytest.fixture(scope="module")
def server_url(folder: Path) -> Iterator[str]:
    with create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [*build_command("inference.yaml", "finetune.yaml"), "--port", str(port)]
    with RunnerProcess(folder, *command) as process:
        line = process.wait_for(lambda line: "served at" in line.get("message", ""))
        url = f"http://127.0.0.1:{port}"
        assert line["message"].endswith(f"served at {url}")
        yield url
        process.terminate()
        assert process.wait() == ExitCode.DONE
        assert process.outcome["reason"] == "Stopped"


def test_a_tuned_model_answers_openais_client(server_url: str) -> None:
    with OpenAI(base_url=f"{server_url}/v1", api_key="-", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["ticket-sorter", "SmolLM2-135M-Instruct"]
        asked = {"prompt": "Ticket: the lamp is broken", "max_tokens": 5, "extra_body": {"min_new_tokens": 5}}
        answers = [client.completions.create(model="ticket-sorter", **asked) for _ in range(2)]
        assert [answer.usage.completion_tokens for answer in answers if answer.usage is not None] == [5, 5]
        # The example's config draws nothing.
        assert answers[0].choices[0].text == answers[1].choices[0].text
        with pytest.raises(NotFoundError, match="ticket-sorter"):
            client.completions.create(model="another", prompt="x")


def test_rows_with_the_columns_of_the_data_are_answered_as_the_fine_tune_asks(server_url: str) -> None:
    body = json.dumps({"rows": [{"ticket": "My lamp is broken."}]}).encode()
    request = urllib.request.Request(f"{server_url}/v1/predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        found = json.load(response)
    assert (found["model"], found["output"], len(found["predictions"])) == ("ticket-sorter", "answer", 1)
    # One token a byte: the whole template stands around the ticket.
    assert found["usage"]["prompt_tokens"] > len("Turn the support ticket into JSON with category, product")


def test_a_batch_gives_all_rows_back_in_order_beside_their_answers(folder: Path) -> None:
    command = build_command("inference-batch.yaml", "finetune.yaml")
    with RunnerProcess(folder, *command) as process:
        assert process.wait() == ExitCode.DONE, process.errors
        said = [line["message"] for line in process.lines if line["event"] == "info"]
    assert [message for message in said if message.startswith("shard")] == ["shard 1 of 2", "shard 2 of 2"]
    given = read_output(folder / "tickets" / "validation.jsonl")
    found = read_output(folder / "out" / "sorted-tickets.jsonl")
    assert [list(row) for row in found] == [["ticket", "answer", "answer_predictions", "answer_error"]] * BATCH_ROWS
    assert [{key: row[key] for key in ("ticket", "answer")} for row in found] == given
    assert all(row["answer_predictions"] is not None and row["answer_error"] is None for row in found)
    assert read_report(folder / "out" / "sorted-tickets.jsonl")["measured_rows"] == BATCH_ROWS


def test_a_batch_that_is_killed_between_its_shards_goes_on_and_one_that_is_done_does_nothing(folder: Path) -> None:
    command = [*build_command("inference-batch.yaml", "finetune.yaml"), "--output-dir", "again"]
    with RunnerProcess(folder, *command) as process:
        process.wait_for(lambda line: line.get("message") == "shard 2 of 2")
        process.kill()
    assert not (folder / "again" / "sorted-tickets.jsonl").exists()
    with RunnerProcess(folder, *command) as process:
        assert process.wait() == ExitCode.DONE, process.errors
        steps = [line for line in process.lines if line["event"] == "step"]
    assert len(steps) > 0
    assert max(line["of"] for line in steps) == BATCH_ROWS // 2, "only the second shard's rows are asked"
    assert len(read_output(folder / "again" / "sorted-tickets.jsonl")) == BATCH_ROWS
    before = time.time_ns()
    code, _, outcome = call_runner(folder, *command)
    assert (code, outcome["metrics"]["rows"]) == (ExitCode.DONE, BATCH_ROWS)
    assert (folder / "again" / "sorted-tickets.jsonl").stat().st_mtime_ns < before


def test_a_server_whose_model_is_not_tuned_yet_says_so_before_it_starts(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    volumes = ["--volume", f"models={folder / 'models'}", "--volume", "artifacts=out"]
    files = ["-f", str(EXAMPLES / "inference.yaml"), "-f", str(EXAMPLES / "finetune.yaml")]
    code, errors, outcome = call_runner(tmp_path, "run", *files, *volumes)
    assert (code, outcome["reason"]) == (ExitCode.USER_ERROR, "ConfigInvalid")
    assert "the LLMFineTune support-tickets is not tuned yet: there is no folder out/support-tickets" in errors
