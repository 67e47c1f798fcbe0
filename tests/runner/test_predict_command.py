"""``llm-runner predict`` in a process of its own: killed, it goes on; asked to stop, it keeps what is finished."""

import time
from pathlib import Path

import pytest
from llm_api.report import ExitCode

from tests.support.models import llama_config, save_model
from tests.support.predictions import TEXT, build_rows, build_run, read_output, save_run, write_jsonl
from tests.support.runner_process import RunnerProcess, call_runner

ROWS = 1200
LONG = {**TEXT, "generation": {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 12}}


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    base = save_model(folder / "model", llama_config(initializer_range=0.3), seed=1)
    data = write_jsonl(folder / "rows.jsonl", build_rows(ROWS))
    return save_run(build_run(base, data, folder / "out.jsonl", LONG), folder / "run.json")


def wait_for_part(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob("out.jsonl.parts/*/part-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_batch_goes_on_with_what_it_has_kept_and_loses_no_row(run_file: Path) -> None:
    folder = run_file.parent
    with RunnerProcess(folder, "predict", run_file) as process:
        wait_for_part(folder)
        process.kill()
    assert not (folder / "out.jsonl").exists()
    code, errors, outcome = call_runner(folder, "predict", run_file)
    assert (code, errors) == (ExitCode.DONE, "")
    assert 0 < outcome["resumedFromStep"] < ROWS
    found = read_output(folder / "out.jsonl")
    assert [row["id"] for row in found] == list(range(ROWS))
    assert all(row["answer_predictions"] is not None for row in found)
    assert outcome["metrics"]["rows"] == ROWS
    assert not (folder / "out.jsonl.parts").exists()


def test_a_batch_that_is_asked_to_stop_keeps_what_is_finished(run_file: Path) -> None:
    folder = run_file.parent
    (folder / "out.jsonl").unlink(missing_ok=True)
    with RunnerProcess(folder, "predict", run_file) as process:
        process.wait_for(lambda line: line["event"] == "step" and line["step"] > 10)
        process.terminate()
        code = process.wait()
        outcome = process.outcome
    assert code == ExitCode.STOPPED
    assert f"of {ROWS} rows are kept" in outcome["message"]
    kept = sum(len(path.read_text().splitlines()) for path in folder.glob("out.jsonl.parts/*/part-*"))
    assert outcome["message"].startswith(f"stopped; {kept} of")
    assert kept > 10
