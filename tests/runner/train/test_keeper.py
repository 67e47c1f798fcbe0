"""Where checkpoints are kept, and what happens when they can't be had."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.run import RunCheckpoints, S3Settings, TrainRun
from llm_runner.errors import Stopped, StorageFailed
from llm_runner.report.reporter import Reporter
from llm_runner.train.checkpoint import Snapshot
from llm_runner.train.keeper import CheckpointPlace

from tests.support.runs import Messages, build_run, read_curve, run_train, stop_after
from tests.support.s3 import S3Server, run_s3_server, using_keys

NOWHERE = S3Settings(endpoint_url="http://127.0.0.1:9", region="us-east-1")
CONFIG = {
    "adapter": {"type": "lora"},
    "trainer": {
        "type": "finetune",
        "batch_size": 4,
        "learning_rate": 0.01,
        "train_steps": 8,
        "steps_per_checkpoint": 2,
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, run_s3_server(tmp_path_factory.mktemp("s3")) as server:
        server.make_bucket("runs")
        with using_keys(server, patch):
            yield server


def snapshot(step: int) -> Snapshot:
    return Snapshot({"weight": torch.full((2,), float(step))}, {"step": step})


def place_of(server: S3Server, work_path: Path, name: str, keep: int = 2) -> CheckpointPlace:
    settings = RunCheckpoints(uri=f"s3://runs/{name}", keep=keep)
    return CheckpointPlace(settings, server.settings, work_path)


def newest_of(place: CheckpointPlace, messages: Messages | None = None) -> int | None:
    found = place.load_newest(Reporter([] if messages is None else [messages]))
    return None if found is None else found.state["step"]


def test_checkpoints_are_kept_and_removed_in_s3_as_they_are_here(server: S3Server, tmp_path: Path) -> None:
    place = place_of(server, tmp_path / "first", "kept")
    for step in (1, 2, 3, 4, 5):
        place.save(step, snapshot(step), best_step=2)
    stored = sorted(path.name for path in (server.folder / "runs" / "kept").glob("step-*"))
    assert stored == ["step-00000002", "step-00000004", "step-00000005"]
    elsewhere = place_of(server, tmp_path / "second", "kept")
    assert newest_of(elsewhere) == 5
    assert elsewhere.load(2).state["step"] == 2
    elsewhere.clear()
    assert newest_of(place_of(server, tmp_path / "third", "kept")) is None


def test_one_that_was_torn_while_it_was_sent_is_passed_over(server: S3Server, tmp_path: Path) -> None:
    place, messages = place_of(server, tmp_path / "first", "torn"), Messages()
    for step in (1, 2):
        place.save(step, snapshot(step), best_step=None)
    (server.folder / "runs" / "torn" / "step-00000002" / "digests.json").unlink()
    assert newest_of(place_of(server, tmp_path / "second", "torn"), messages) == 1
    assert [text.split(":")[0] for text in messages.texts] == ["warning"]


def test_a_store_that_can_not_be_reached_is_no_reason_to_start_anew(tmp_path: Path) -> None:
    place = CheckpointPlace(RunCheckpoints(uri="s3://runs/away"), NOWHERE, tmp_path)
    with pytest.raises(StorageFailed, match="could not be reached"):
        newest_of(place)


def stopped(folder: Path, model_path: Path, asked: int) -> TrainRun:
    run = build_run(folder, model_path, CONFIG)
    with pytest.raises(Stopped):
        run_train(run, folder / "work", None, stop_after(asked))
    return run


def spoil(path: Path) -> None:
    (path / "state.pt").write_bytes(b"")


def remove(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


@pytest.mark.parametrize("damage", [spoil, remove])
def test_a_best_checkpoint_that_is_lost_is_told_and_the_last_weights_are_kept(
    damage: Callable[[Path], None], llama_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hold-out gets worse in the end here, so that the last is not the best."""
    config = {**CONFIG, "trainer": {**CONFIG["trainer"], "learning_rate": 0.1}}
    run, messages = build_run(tmp_path, llama_path, config), Messages()
    (tmp_path / "validation.csv").write_text("question,answer\nWhere is it?,~~~ ### @@@\n")
    save = CheckpointPlace.save

    def save_and_lose(place: CheckpointPlace, step: int, kept: Snapshot, best_step: int | None) -> None:
        save(place, step, kept, best_step)
        if step == 8 and best_step is not None:
            assert best_step < 8
            damage(place.folder / f"step-{best_step:08d}")

    monkeypatch.setattr(CheckpointPlace, "save", save_and_lose)
    outcome = run_train(run, tmp_path / "work", messages)
    assert any(text.startswith("warning: the best checkpoint, of step ") for text in messages.texts)
    assert outcome.metrics["train.best_step"] == 8


def test_a_checkpoint_elsewhere_by_a_uri_of_its_own_is_used(llama_path: Path, tmp_path: Path) -> None:
    run: Any = stopped(tmp_path, llama_path, 5)
    kept = sorted(path.name for path in Path(run.checkpoint.uri).iterdir())
    assert kept[-1].startswith("step-")
    run_train(run, tmp_path / "work")
    assert len(read_curve(Path(run.output_uri))) == 8


def test_checkpoints_of_other_ranks_are_not_taken_apart(
    llama_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start by EVA that comes out otherwise on another machine; here the same is done to what tells runs apart."""
    monkeypatch.setattr("llm_runner.train.run._identity", lambda *_: {"run": "the same"})
    ranks = [{**CONFIG, "adapter": {"type": "lora", "r": rank}} for rank in (8, 4)]
    with pytest.raises(Stopped):
        run_train(build_run(tmp_path, llama_path, ranks[0]), tmp_path / "first", None, stop_after(5))
    messages = Messages()
    outcome = run_train(build_run(tmp_path, llama_path, ranks[1]), tmp_path / "second", messages)
    assert outcome.resumed_from_step is None
    assert any("of other ranks than EVA chooses" in text for text in messages.texts)
    assert len(read_curve(tmp_path / "out")) == 8
