"""``llm-runner train`` of several processes: one command on each machine, and every way in which such a run ends."""

import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.report import ExitCode
from llm_api.run import RunCheckpoints, TrainRun
from llm_runner.report.reporter import Reporter
from llm_runner.train.launch import INDEX, fit_to_machine

from tests.support.runner_process import RunnerProcess, call_runner
from tests.support.runs import Messages, build_run, read_curve, run_train, save_run

pytestmark = pytest.mark.timeout(600)

STEPS = 60
CONFIG: dict[str, Any] = {
    "adapter": {"type": "lora", "dropout": 0.0},
    "trainer": {"type": "finetune", "batch_size": 4, "learning_rate": 0.001, "train_steps": STEPS, "epochs": 100},
}
SAVED = 5
"""Steps from checkpoint to checkpoint."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


def build(folder: Path, model: Path, *, nodes: int = 1, processes: int = 2, port: int | None = None) -> TrainRun:
    rendezvous = {} if port is None else {"rendezvous": f"localhost:{port}"}
    together = {"nodes": nodes, "processesPerNode": processes, **rendezvous}
    run = build_run(folder, model, CONFIG, together=together)
    return run.model_copy(update={"checkpoint": RunCheckpoints(uri=str(folder / "checkpoints"), every_steps=SAVED)})


def losses_of(run: TrainRun) -> list[float]:
    return [float(row[3]) for row in read_curve(Path(run.output_uri))]


@pytest.fixture(scope="module")
def undisturbed(llama_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one process."""
    folder = tmp_path_factory.mktemp("alone")
    run = build(folder, llama_path, processes=1)
    run_train(run, folder / "work")
    return losses_of(run)


def has_saved(line: dict[str, Any]) -> bool:
    return int(line.get("step", 0)) >= 2 * SAVED


def test_one_that_is_asked_to_end_saves_first(llama_path: Path, tmp_path: Path, undisturbed: list[float]) -> None:
    run = build(tmp_path, llama_path)
    with RunnerProcess(tmp_path, "train", save_run(run, tmp_path / "run.json"), environment=ENVIRONMENT) as first:
        first.wait_for(has_saved)
        first.terminate()
        assert first.wait() == ExitCode.STOPPED
        assert first.outcome["reason"] == "Stopped"
        stopped_at = first.outcome["lastStep"]
    run_train(run, tmp_path / "ended by one")
    assert losses_of(run) == pytest.approx(undisturbed, abs=1e-5)
    assert 2 * SAVED <= stopped_at < STEPS


def test_a_mistake_ends_with_its_own_code_and_words(llama_path: Path, tmp_path: Path) -> None:
    run = build(tmp_path, llama_path)
    Path(run.dataset.train.uri).write_text("question,answers\na,b\n")
    code, _, outcome = call_runner(tmp_path, "train", save_run(run, tmp_path / "run.json"), environment=ENVIRONMENT)
    assert (code, outcome["reason"]) == (ExitCode.USER_ERROR, "DataInvalid")
    assert "answers" in outcome["message"]


def test_a_process_that_is_killed_ends_all_nodes_which_go_on_together(
    llama_path: Path, tmp_path: Path, undisturbed: list[float]
) -> None:
    run = build(tmp_path, llama_path, nodes=2, processes=1, port=find_free_port())
    run_file = save_run(run, tmp_path / "run.json")
    with node(0, tmp_path, run_file) as first, node(1, tmp_path, run_file) as second:
        first.wait_for(has_saved)
        (process,) = second.children()
        process.kill()
        lost_at = time.monotonic()
        assert second.wait() == 128 + signal.SIGKILL
        assert "process 1 of the run ended with exit code 137" in second.outcome["message"]
        assert first.wait() == ExitCode.PEER_LOST
        assert time.monotonic() - lost_at < 60
        assert first.outcome["reason"] == "PeerLost"
    with node(0, tmp_path, run_file) as first, node(1, tmp_path, run_file) as second:
        assert (first.wait(), second.wait()) == (ExitCode.DONE, ExitCode.DONE)
        assert first.outcome["reason"] == "Succeeded"
        assert first.outcome["artifactDigest"]
        assert first.outcome["resumedFromStep"] >= 2 * SAVED
    assert losses_of(run) == pytest.approx(undisturbed, abs=1e-5)


@pytest.mark.parametrize(("there", "used"), [(0, 1), (2, 2), (3, 3), (16, 8)])
def test_one_machine_does_the_work_of_all_devices_with_those_that_it_has(
    llama_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: int, used: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    run = build(tmp_path, llama_path, nodes=2, processes=4, port=29500)
    messages = Messages()
    together = fit_to_machine(run, Reporter([messages])).together
    assert (together.nodes, together.processes_per_node, together.rendezvous) == (1, used, None)
    assert [f"asks for 8 devices, and {used} of" in text for text in messages.texts] == [True] * (used < 8)


def node(number: int, folder: Path, run_file: Path) -> RunnerProcess:
    """A pod of an Indexed Job."""
    own = folder / f"node-{number}"
    own.mkdir(exist_ok=True)
    return RunnerProcess(own, "train", run_file, environment={**ENVIRONMENT, INDEX: str(number)})


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
