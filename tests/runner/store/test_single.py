"""Processes that share a cache of models: one downloads, the others wait for it and use what it has brought."""

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import pytest
from llm_runner.store import fetch
from llm_runner.store.fetch import fetch_model
from llm_runner.store.publish import publish_folder
from llm_runner.store.single import one_at_a_time

from tests.support.hub import HubServer
from tests.support.s3 import S3Server

PROCESSES = 4
SLOW_SECONDS = 0.2
HOLD = """
import sys, time
from pathlib import Path
from llm_runner.store.single import one_at_a_time
with one_at_a_time(Path(sys.argv[1]), "s3/models/tiny"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


def test_each_file_of_a_model_in_s3_is_fetched_once_by_all_that_start_together(
    keys: S3Server, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_folder(model, "s3://models/together", keys.settings)
    fetched: list[str] = []
    get_object = fetch.get_object

    def get_slowly(client: Any, source: Any, destination: Path) -> None:
        fetched.append(destination.name)
        time.sleep(SLOW_SECONDS)
        get_object(client, source, destination)

    monkeypatch.setattr(fetch, "get_object", get_slowly)
    with ThreadPoolExecutor(PROCESSES) as pool:
        found = list(
            pool.map(
                lambda _: fetch_model("s3://models/together", cache_path=tmp_path / "cache", s3=keys.settings).path,
                range(PROCESSES),
            )
        )
    assert len(set(found)) == 1
    # The sums are small, and are read each time, as they tell whether the rest is still what is stored.
    assert sorted(name for name in fetched if name != "SHA256SUMS") == sorted(
        path.name for path in model.iterdir() if path.name != "SHA256SUMS"
    )


def test_each_file_of_a_model_of_a_hub_is_fetched_once_by_all_that_start_together(
    hub: HubServer, model: Path, tmp_path: Path
) -> None:
    repository = hub.add_repository("acme/tiny")
    for path in model.iterdir():
        # Contents of their own: files that are the same have one place in the cache.
        (repository / path.name).write_text(f'{{"of": "{path.name}"}}')
    with ThreadPoolExecutor(PROCESSES) as pool:
        found = set(pool.map(lambda _: fetch_model("acme/tiny", cache_path=tmp_path / "cache").path, range(PROCESSES)))
    assert len(found) == 1
    fetched = [request for request in hub.requests if request.startswith("GET") and "/resolve/" in request]
    assert len(fetched) == 3


def test_a_process_that_is_killed_leaves_no_lock_behind(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        lock = filelock.FileLock(tmp_path / ".locks" / "s3" / "models" / "tiny.lock")
        with pytest.raises(filelock.Timeout):
            lock.acquire(timeout=0)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with one_at_a_time(tmp_path, "s3/models/tiny"), pytest.raises(filelock.Timeout):
        lock.acquire(timeout=0)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_where_a_file_system_has_no_locks_everyone_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with one_at_a_time(tmp_path, "s3/models/tiny"), one_at_a_time(tmp_path, "s3/models/tiny"):
        assert True


def test_a_cache_that_can_not_be_written_can_still_be_read(tmp_path: Path) -> None:
    (tmp_path / ".locks").write_text("a file where the locks' folder would be made")
    with one_at_a_time(tmp_path, "s3/models/tiny"):
        assert True
