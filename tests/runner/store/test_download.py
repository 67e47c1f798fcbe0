"""Large objects arrive by ranges, and what has arrived is not fetched again by the process after."""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from llm_runner.store import download as downloads
from llm_runner.store.download import PARALLEL_RANGES, download
from llm_runner.store.fetch import fetch_model
from llm_runner.store.publish import publish_folder
from llm_runner.store.ranges import S3File, look_up
from llm_runner.store.s3 import PART_SIZE_BYTES, s3_client
from llm_runner.store.uri import parse_s3

from tests.support.s3 import S3Server

RANGE_BYTES = 2**16
RANGES = 3 * PARALLEL_RANGES
KILLED_AT = 2 * PARALLEL_RANGES
"""The request at which the process ends: all but those under way have arrived."""
DOWNLOAD = """
import itertools, os, signal, sys
from pathlib import Path
from llm_api.run import S3Settings
from llm_runner.store import download
from llm_runner.store.ranges import look_up
from llm_runner.store.s3 import s3_client
from llm_runner.store.uri import parse_s3
endpoint, uri, destination, range_bytes, killed_at = sys.argv[1:]
settings, count = S3Settings(endpoint_url=endpoint, region="us-east-1"), itertools.count(1)
def kill(**_):
    if next(count) == int(killed_at):
        os.kill(os.getpid(), signal.SIGKILL)
file = look_up(parse_s3(uri), settings)
s3_client(settings).meta.events.register("before-call.s3.GetObject", kill)
download.RANGE_BYTES = int(range_bytes)
download.download(file, Path(destination))
"""


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "RANGE_BYTES", RANGE_BYTES)


def content(seed: int) -> bytes:
    return random.Random(seed).randbytes(RANGES * RANGE_BYTES - 7)


def store(keys: S3Server, name: str, body: bytes) -> S3File:
    s3_client(keys.settings).put_object(Bucket="data", Key=name, Body=body)
    file = look_up(parse_s3(f"s3://data/{name}"), keys.settings)
    assert file is not None
    return file


@contextmanager
def asked_ranges(keys: S3Server) -> Iterator[list[int]]:
    """Numbers of the ranges that are asked for meanwhile."""
    found: list[int] = []

    def note(params: dict[str, Any], **_: Any) -> None:
        if asked := params["headers"].get("Range"):
            found.append(int(asked.removeprefix("bytes=").split("-")[0]) // RANGE_BYTES)

    events = s3_client(keys.settings).meta.events
    events.register("before-call.s3.GetObject", note)
    yield found
    events.unregister("before-call.s3.GetObject", note)


def kill_download(keys: S3Server, name: str, path: Path) -> set[int]:
    """Ranges that a process had on disk when it was killed."""
    arguments = [keys.endpoint_url, f"s3://data/{name}", str(path), str(RANGE_BYTES), str(KILLED_AT)]
    done = subprocess.run([sys.executable, "-c", DOWNLOAD, *arguments], check=False)
    assert done.returncode == -9
    assert not path.exists()
    starts = path.with_name(f".arrived-{path.name}").read_text().splitlines()[1:]
    return {int(start) // RANGE_BYTES for start in starts}


def test_a_download_goes_on_where_a_killed_process_left_it(keys: S3Server, tmp_path: Path) -> None:
    path = tmp_path / "killed"
    file = store(keys, "killed", content(1))
    arrived = kill_download(keys, "killed", path)
    assert arrived
    with asked_ranges(keys) as asked:
        download(file, path)
    assert sorted(asked) == sorted(set(range(RANGES)) - arrived)
    assert path.read_bytes() == content(1)
    assert list(tmp_path.iterdir()) == [path]


def test_a_line_that_broke_off_counts_for_nothing(keys: S3Server, tmp_path: Path) -> None:
    path = tmp_path / "listed"
    file = store(keys, "listed", content(2))
    (tmp_path / ".partial-listed").write_bytes(content(2)[: 2 * RANGE_BYTES])
    listed = f"{file.etag} {file.size_bytes} {RANGE_BYTES}\n{RANGE_BYTES}\n0\n{2 * RANGE_BYTES}"
    (tmp_path / ".arrived-listed").write_text(listed)
    with asked_ranges(keys) as asked:
        download(file, path)
    assert sorted(asked) == list(range(2, RANGES))
    assert path.read_bytes() == content(2)


def test_an_object_that_was_replaced_since_is_fetched_whole(keys: S3Server, tmp_path: Path) -> None:
    path = tmp_path / "replaced"
    store(keys, "replaced", content(3))
    kill_download(keys, "replaced", path)
    file = store(keys, "replaced", content(4))
    with asked_ranges(keys) as asked:
        download(file, path)
    assert sorted(asked) == list(range(RANGES))
    assert path.read_bytes() == content(4)


def test_an_object_that_is_replaced_meanwhile_is_never_half_of_each(keys: S3Server, tmp_path: Path) -> None:
    path = tmp_path / "meanwhile"
    file = store(keys, "meanwhile", content(5))
    store(keys, "meanwhile", content(6))
    with pytest.raises(ClientError, match="PreconditionFailed"):
        download(file, path)
    assert not path.exists()


def test_a_damaged_part_of_a_model_is_found_by_its_sums_and_fetched_anew(keys: S3Server, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    whole = random.Random(8).randbytes(PART_SIZE_BYTES + 5)
    (folder / "model.safetensors").write_bytes(whole)
    publish_folder(folder, "s3://models/damaged", keys.settings)
    file = look_up(parse_s3("s3://models/damaged/model.safetensors"), keys.settings)
    assert file is not None
    cached = tmp_path / "cache" / "s3" / "models" / "damaged"
    cached.mkdir(parents=True)
    (cached / ".partial-model.safetensors").write_bytes(bytes(len(whole)))
    (cached / ".arrived-model.safetensors").write_text(f"{file.etag} {len(whole)} {RANGE_BYTES}\n0\n")
    (cached / ".partial-gone.safetensors").write_bytes(b"of a file that is listed no more")
    with asked_ranges(keys) as asked:
        fetched = fetch_model("s3://models/damaged", cache_path=tmp_path / "cache", s3=keys.settings).path
    # All but the damaged one, and then all of them.
    assert len(asked) == 2 * -(-len(whole) // RANGE_BYTES) - 1
    assert (fetched / "model.safetensors").read_bytes() == whole
    assert {path.name for path in fetched.iterdir()} == {"model.safetensors", "SHA256SUMS"}
