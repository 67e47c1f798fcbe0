"""``llm-runner delete RUN.json``: what a run stored goes, what lies beside it stays, and no heavy library is needed."""

import json
import subprocess
import sys
from pathlib import Path

from llm_api.report import ExitCode
from llm_api.run import S3Settings
from llm_runner.store.publish import publish_folder

MOST_MEMORY_BYTES = 500 * 2**20
CODE = r"""
import re, sys
from pathlib import Path
from llm_runner.__main__ import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules
print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
sys.exit(code)
"""


def save_run_file(folder: Path, output: Path) -> Path:
    run = {
        "kind": "TrainRun",
        "name": "bot",
        "config": {
            "base_model": "acme/small",
            "input_features": [{"name": "question", "type": "text"}],
            "output_features": [{"name": "answer", "type": "text"}],
            "trainer": {"type": "finetune"},
        },
        "dataset": {"train": {"uri": "train.csv"}},
        "outputUri": str(output),
        "checkpoint": {"uri": str(output / "checkpoints")},
    }
    path = folder / "run.json"
    path.write_text(json.dumps(run))
    return path


def delete(run_file: Path) -> subprocess.CompletedProcess[str]:
    log = run_file.with_name("outcome.json")
    command = [sys.executable, "-P", "-c", CODE, "delete", str(run_file), "--termination-log", str(log)]
    return subprocess.run(command, capture_output=True, text=True)


def test_artifact_and_checkpoints_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    output, source = tmp_path / "out", tmp_path / "source"
    source.mkdir()
    (source / "adapter_model.safetensors").write_text("weights")
    publish_folder(source, str(output), S3Settings())
    (output / "checkpoints" / "step-00000001").mkdir(parents=True)
    (output / "mine.txt").write_text("mine")
    done = delete(save_run_file(tmp_path, output))
    assert done.returncode == ExitCode.DONE, done.stderr
    assert [path.name for path in output.rglob("*")] == ["mine.txt"]
    assert json.loads((tmp_path / "outcome.json").read_text()) == {"reason": "Deleted"}
    assert int(done.stdout.splitlines()[-1]) < MOST_MEMORY_BYTES


def test_a_run_that_stored_nothing_is_no_error(tmp_path: Path) -> None:
    assert delete(save_run_file(tmp_path, tmp_path / "out")).returncode == ExitCode.DONE


def test_a_place_that_may_not_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    done = delete(save_run_file(tmp_path, tmp_path / "out"))
    assert done.returncode == ExitCode.USER_ERROR
    assert "OutputNotWritable" in done.stderr
