import json
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.issues import InvalidConfig, Issue
from llm_api.report import ExitCode, Progress
from llm_runner.__main__ import build_failure, describe_failure, main
from llm_runner.arguments import parse_volume
from llm_runner.errors import DataInvalid, RunError, Stopped
from llm_runner.report.reporter import Reporter

MANIFEST = """
apiVersion: llmoperator.dev/v1alpha1
kind: LLMFineTune
metadata: {name: bot}
spec:
  config:
    base_model: acme/tiny
    input_features: [{name: question, type: text}]
    output_features: [{name: answer, type: text}]
    adapter: {type: lora}
    trainer: {type: finetune}
  dataset: {train: {uri: s3://data/train.csv}}
  output: {uri: s3://models/bot}
  run: {suspend: false}
"""
BROKEN = MANIFEST.replace("{type: lora}", "{type: lora, r: 0, alfa: 3}").replace("s3://models/bot", "ftp://models")
SERVED = """
apiVersion: llmoperator.dev/v1alpha1
kind: LLMInference
metadata: {name: answers}
spec:
  model: {fineTuneRef: {name: bot}}
  serve: {}
"""

# The command in a process of its own, which tells at its end whether a heavy library was imported.
PROGRAM = """
import sys
from llm_runner.__main__ import main
code = main(sys.argv[1:])
heavy = sorted({"torch", "transformers", "peft", "matplotlib", "boto3", "requests"} & set(sys.modules))
sys.exit(f"imported {heavy}" if heavy else code)
"""
WAITING = """
import sys, time
from llm_runner.train.stop import stop_on_signals
should_stop = stop_on_signals()
should_stop()
print("ready", flush=True)
while not should_stop():
    time.sleep(0.01)
print("stopping", flush=True)
try:
    time.sleep(float(sys.argv[1]))
except KeyboardInterrupt:
    print("aborted", flush=True)
print("ended", flush=True)
"""
PREPARING = """
import time
from llm_runner.train.stop import stop_on_signals
from llm_runner.errors import Stopped
should_stop = stop_on_signals()
try:
    print("ready", flush=True)
    time.sleep(60)
except Stopped as stopped:
    print(stopped, flush=True)
"""


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-c", PROGRAM, *arguments, "--termination-log", "log.json"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=120)


def lines_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_bad_manifest_fails_with_all_errors_before_a_heavy_library_is_imported(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(BROKEN)
    done = call(tmp_path, "run", "-f", "bad.yaml")
    assert done.returncode == ExitCode.USER_ERROR
    first, *issues = done.stderr.splitlines()
    assert first == "error: ConfigInvalid:"
    assert sorted(":".join(issue.split(":")[:3]) for issue in issues) == [
        "bad.yaml: LLMFineTune/bot: spec.config.adapter.alfa",
        "bad.yaml: LLMFineTune/bot: spec.config.adapter.r",
        "bad.yaml: LLMFineTune/bot: spec.output.uri",
    ]
    assert "did you mean alpha?" in done.stderr


def test_an_inference_whose_model_is_not_there_fails_before_a_heavy_library_is_imported(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text(SERVED)
    done = call(tmp_path, "run", "-f", "serve.yaml")
    assert done.returncode == ExitCode.USER_ERROR
    assert "serve.yaml: LLMInference/answers: spec.model.fineTuneRef.name: no LLMFineTune bot is in the" in done.stderr


def test_errors_look_as_the_validator_writes_them(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(BROKEN)
    command = [sys.executable, "-m", "llm_api", "validate", "bad.yaml"]
    validated = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    found = call(tmp_path, "run", "-f", "bad.yaml").stderr.splitlines()[1:]
    assert found == validated.stdout.splitlines()[: len(found)]


def test_the_outcome_of_a_failure_is_told_to_logs_and_to_kubernetes(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(BROKEN)
    done = call(tmp_path, "run", "-f", "bad.yaml")
    told = json.loads((tmp_path / "log.json").read_text())
    (line,) = lines_of(done)
    assert (line["event"], line["reason"], line["message"]) == ("outcome", told["reason"], told["message"])
    assert told["reason"] == "ConfigInvalid"
    assert "spec.config.adapter.r" in told["message"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "run.json: can't be read: No such file or directory"),
        ("{", "run.json: is not JSON: Expecting property name"),
        ('{"kind": "TrainRun"}', "run.json: TrainRun: outputUri: "),
    ],
)
def test_a_bad_run_file_fails_with_a_clean_error(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    done = call(tmp_path, "train", "run.json")
    assert done.returncode == ExitCode.USER_ERROR
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_suspended_run_is_done_at_once(tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").write_text(MANIFEST.replace("suspend: false", "suspend: true"))
    done = call(tmp_path, "run", "-f", "manifest.yaml")
    assert done.returncode == ExitCode.DONE
    assert [line["event"] for line in lines_of(done)] == ["info", "outcome"]
    assert json.loads((tmp_path / "log.json").read_text()) == {"reason": "Suspended"}


def test_a_port_that_can_not_be_served_is_the_callers_mistake(tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").write_text(MANIFEST)
    done = call(tmp_path, "run", "-f", "manifest.yaml", "--metrics-port", "70000")
    assert "--metrics-port 70000 can't be served" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["run"], ["train"], ["run", "-f", "x", "--volume", "claim"]])
def test_a_command_line_that_is_not_understood_shows_how_it_goes(
    arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err.startswith("usage: llm-runner")


def test_a_termination_log_that_can_not_be_written_hides_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["run", "-f", str(tmp_path / "none.yaml"), "--termination-log", str(tmp_path / "no" / "log")])
    assert code == ExitCode.USER_ERROR
    shown = capsys.readouterr()
    assert "none.yaml: can't be read" in shown.err
    assert "the termination message could not be written" in shown.out


def test_a_volume_is_split_at_its_first_equals_sign() -> None:
    assert parse_volume("data=/a=b") == ("data", Path("/a=b"))
    assert parse_volume("data=~/rows") == ("data", Path.home() / "rows")


@pytest.mark.parametrize("text", ["data", "=folder", "data=", ""])
def test_a_volume_without_claim_or_folder_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="write CLAIM=DIR"):
        parse_volume(text)


def leaves(error: type[RunError]) -> list[type[RunError]]:
    below = [leaf for child in error.__subclasses__() for leaf in leaves(child)]
    return below if below else [error]


@pytest.mark.parametrize("error", leaves(RunError))
def test_every_error_of_the_runner_ends_with_its_own_code_and_reason(error: type[RunError]) -> None:
    code, reason, message = describe_failure(error("what was found"))
    assert (code, reason, message) == (error.exit_code, error.__name__, "what was found")
    assert code != ExitCode.UNEXPECTED


def allocate_everything() -> None:
    torch.empty(2**60, dtype=torch.uint8)


def fill_everything() -> None:
    bytearray(2**62)


def run_out_of_device_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("exhaust", [allocate_everything, fill_everything, run_out_of_device_memory])
def test_memory_that_ran_out_is_told_with_the_peak_and_what_to_change(exhaust: Any) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        exhaust()
    code, outcome = build_failure(caught.value, Reporter([]))
    assert (code, outcome.reason) == (ExitCode.OUT_OF_MEMORY, "OutOfMemory")
    assert "lower trainer.batch_size" in outcome.message
    assert outcome.metrics["peak_memory_bytes"] > 10_000_000


def test_an_error_that_nobody_foresaw_names_its_type() -> None:
    assert describe_failure(ZeroDivisionError("division by zero")) == (
        ExitCode.UNEXPECTED,
        "Unexpected",
        "ZeroDivisionError: division by zero",
    )


def test_every_issue_of_a_config_is_in_the_message() -> None:
    error = InvalidConfig([Issue("a.b", "is wrong"), Issue("c", "is missing")])
    assert describe_failure(error) == (ExitCode.USER_ERROR, "ConfigInvalid", "a.b: is wrong\nc: is missing")


def test_ctrl_c_is_told_apart_from_a_run_that_saved_first() -> None:
    assert describe_failure(KeyboardInterrupt())[:2] == (130, "Aborted")
    assert describe_failure(Stopped("saved"))[:2] == (143, "Stopped")


def test_a_failure_tells_how_far_the_run_was() -> None:
    reporter = Reporter([])
    reporter.step(Progress(phase="Training", step=7, of=9, loss=2.5, eval_loss=3.0))
    _, outcome = build_failure(DataInvalid("gone"), reporter)
    assert (outcome.last_step, outcome.metrics) == (7, {"train.loss": 2.5, "eval.loss": 3.0})


def signal_program(signals: Sequence[int], *, seconds: float, program: str = WAITING) -> tuple[str, str, int]:
    """Output, errors and exit code of a program that takes ``seconds`` to stop."""
    command = [sys.executable, "-c", program, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in signals:
            process.send_signal(number)
            time.sleep(0.3)
        output, errors = process.communicate(timeout=60)
    return output, errors, process.returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_the_run_to_stop_and_says_so(number: int) -> None:
    output, errors, code = signal_program([number], seconds=0.0)
    assert (output, code) == ("stopping\nended\n", 0)
    assert "stopping: a checkpoint is saved first" in errors


def test_a_signal_before_training_ends_the_preparation_at_once() -> None:
    output, _, code = signal_program([signal.SIGTERM], seconds=0.0, program=PREPARING)
    assert (output, code) == ("stopped before the first step; nothing is lost\n", 0)


def test_a_second_ctrl_c_ends_the_run_at_once() -> None:
    output, _, _ = signal_program([signal.SIGINT, signal.SIGINT], seconds=50.0)
    assert output == "stopping\naborted\nended\n"


def test_a_second_sigterm_does_not_disturb_the_saving() -> None:
    output, _, code = signal_program([signal.SIGTERM, signal.SIGTERM], seconds=1.0)
    assert (output, code) == ("stopping\nended\n", 0)
