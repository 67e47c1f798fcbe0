"""Objects and folders in a real S3 server: what arrives is what was sent, and each failure says what to do."""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from llm_api.run import S3Settings
from llm_runner.errors import (
    ConfigInvalid,
    DataInvalid,
    ModelAccessDenied,
    ModelNotFound,
    OutputNotWritable,
    StorageFailed,
)
from llm_runner.store import s3
from llm_runner.store.digest import SUMS_NAME
from llm_runner.store.fetch import fetch_file, fetch_folder, fetch_model
from llm_runner.store.publish import check_writable, delete_folder, list_folders, publish_folder
from llm_runner.store.s3 import PART_SIZE_BYTES, put_object, s3_client
from llm_runner.store.uri import parse_s3

from tests.support.s3 import S3Server, run_s3_server

NOWHERE = S3Settings(endpoint_url="http://127.0.0.1:9", region="us-east-1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact of several files, one of them in parts and one in a folder of its own."""
    path = tmp_path / "artifact"
    (path / "deep").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(bytes(range(256)) * (PART_SIZE_BYTES // 200))
    (path / "deep" / "notes.txt").write_text("well\n")
    (path / "empty").touch()
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_comes_back_as_it_was_sent(keys: S3Server, folder: Path, tmp_path: Path) -> None:
    published = publish_folder(folder, "s3://models/round/trip", keys.settings)
    fetched = fetch_folder("s3://models/round/trip", tmp_path / "back", keys.settings)
    assert contents(fetched) == contents(folder)
    sizes = {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    assert published.size_bytes == sum(sizes.values()) - sizes[SUMS_NAME]
    assert published.digest == f"sha256:{hashlib.sha256((folder / SUMS_NAME).read_bytes()).hexdigest()}"


def test_anyone_can_check_a_stored_folder_with_sha256sum(keys: S3Server, folder: Path) -> None:
    publish_folder(folder, "s3://models/checked", keys.settings)
    subprocess.run(["sha256sum", "--check", "--strict", SUMS_NAME], cwd=keys.folder / "models" / "checked", check=True)


def test_publishing_again_replaces_what_was_published_and_leaves_the_rest(keys: S3Server, folder: Path) -> None:
    publish_folder(folder, "s3://models/again", keys.settings)
    bucket = keys.folder / "models" / "again"
    (bucket / "checkpoints").mkdir()
    (bucket / "checkpoints" / "mine").write_text("kept")
    (folder / "empty").unlink()
    (folder / "new.json").write_text("{}")
    publish_folder(folder, "s3://models/again", keys.settings)
    assert set(contents(bucket)) == {*contents(folder), "checkpoints/mine"}


def test_an_upload_that_was_altered_on_its_way_is_found(keys: S3Server, tmp_path: Path) -> None:
    """The client sends another file than the one that is compared with what arrived."""

    class Altering:
        def __init__(self, client: Any) -> None:
            self._client = client

        def upload_file(self, source: str, *arguments: Any, **options: Any) -> None:
            other = Path(f"{source}.other")
            other.write_text("hellO")
            self._client.upload_file(str(other), *arguments, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._client, name)

    path = tmp_path / "file"
    path.write_text("hello")
    client: Any = Altering(s3_client(keys.settings))
    with pytest.raises(StorageFailed, match=r"s3://data/altered: what is stored differs from .*file after the upload"):
        put_object(client, path, parse_s3("s3://data/altered"))


@pytest.mark.parametrize("damage", ["sums", "file", "content"])
def test_a_torn_folder_is_not_taken(keys: S3Server, folder: Path, tmp_path: Path, damage: str) -> None:
    uri = f"s3://models/torn-{damage}"
    publish_folder(folder, uri, keys.settings)
    bucket = keys.folder / uri.removeprefix("s3://")
    if damage == "content":
        (bucket / "deep" / "notes.txt").write_text("sick\n")
    else:
        (bucket / {"sums": SUMS_NAME, "file": "deep/notes.txt"}[damage]).unlink()
    said = r"is damaged \(Expected checksum .*\)" if damage == "content" else SUMS_NAME
    with pytest.raises(StorageFailed, match=said):
        fetch_folder(uri, tmp_path / "back", keys.settings)


def test_only_what_changed_is_downloaded_again(keys: S3Server, folder: Path, tmp_path: Path) -> None:
    publish_folder(folder, "s3://models/twice", keys.settings)
    first = fetch_model("s3://models/twice", cache_path=tmp_path / "cache", s3=keys.settings).path
    before = {path.name: path.stat().st_ino for path in first.rglob("*") if path.is_file()}
    os.utime(keys.folder / "models" / "twice" / "deep" / "notes.txt", (1, 1))
    second = fetch_model("s3://models/twice", cache_path=tmp_path / "cache", s3=keys.settings).path
    assert contents(second) == contents(folder)
    after = {path.name: path.stat().st_ino for path in second.rglob("*") if path.is_file()}
    assert {name for name in before if before[name] != after[name]} == {"notes.txt", SUMS_NAME}


def test_a_cached_model_follows_what_is_published_even_within_a_second(
    keys: S3Server, folder: Path, tmp_path: Path
) -> None:
    for text in ("first", "other", "third"):
        (folder / "deep" / "notes.txt").write_text(text)
        (folder / text).touch()
        publish_folder(folder, "s3://models/quick", keys.settings)
        fetched = fetch_model("s3://models/quick", cache_path=tmp_path / "cache", s3=keys.settings).path
        assert contents(fetched) == contents(folder)
        (folder / text).unlink()


def test_folders_are_listed_and_deleted(keys: S3Server, folder: Path) -> None:
    for name in ("step-2", "step-1"):
        publish_folder(folder, f"s3://models/listed/{name}", keys.settings)
    assert list_folders("s3://models/listed", keys.settings) == ["step-1", "step-2"]
    delete_folder("s3://models/listed/step-1", keys.settings)
    delete_folder("s3://models/listed/never-there", keys.settings)
    assert list_folders("s3://models/listed", keys.settings) == ["step-2"]


def test_a_file_is_fetched_under_its_own_name(keys: S3Server, tmp_path: Path) -> None:
    (keys.folder / "data" / "rows.csv").write_text("a,b\n1,2\n")
    path = fetch_file("s3://data/rows.csv", tmp_path / "data", keys.settings)
    assert (path.name, path.read_text()) == ("rows.csv", "a,b\n1,2\n")


def test_a_place_is_known_to_be_writable_and_nothing_stays_there(keys: S3Server) -> None:
    check_writable("s3://models/probe", keys.settings)
    assert not list((keys.folder / "models").rglob(".probe*"))


def test_a_missing_object_bucket_or_folder_is_the_users_mistake(keys: S3Server, tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match=r"^s3://data/none\.csv does not exist .*Check the bucket and the path"):
        fetch_file("s3://data/none.csv", tmp_path, keys.settings)
    with pytest.raises(DataInvalid, match=r"^s3://no-such-bucket/rows\.csv does not exist"):
        fetch_file("s3://no-such-bucket/rows.csv", tmp_path, keys.settings)
    with pytest.raises(ModelNotFound, match=r"^s3://models/none is empty or does not exist"):
        fetch_model("s3://models/none", cache_path=tmp_path, s3=keys.settings)
    with pytest.raises(ModelNotFound, match=r"^s3://no-such-bucket/model does not exist"):
        fetch_model("s3://no-such-bucket/model", cache_path=tmp_path, s3=keys.settings)
    with pytest.raises(OutputNotWritable, match=r"^s3://no-such-bucket/out does not exist"):
        check_writable("s3://no-such-bucket/out", keys.settings)


@pytest.fixture
def wrong_key(keys: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "n0t-th3-s3cr3t")
    return keys


@pytest.fixture
def unknown_key(keys: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    return keys


@pytest.fixture
def no_key(keys: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
    for name in keys.environment:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    return keys


@pytest.mark.parametrize("credentials", ["wrong_key", "unknown_key", "no_key"])
def test_keys_that_do_not_open_it_are_told_with_where_to_put_others(
    credentials: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    settings = request.getfixturevalue(credentials).settings
    advice = r"access is denied \(.*\)\. Give keys .*AWS_ACCESS_KEY_ID"
    with pytest.raises(ModelAccessDenied, match=advice) as caught:
        fetch_file("s3://data/rows.csv", tmp_path, settings)
    assert "n0t-th3-s3cr3t" not in str(caught.value)
    with pytest.raises(ModelAccessDenied, match=advice):
        fetch_model("s3://models/m", cache_path=tmp_path, s3=settings)
    with pytest.raises(OutputNotWritable, match=advice):
        check_writable("s3://models/out", settings)


def test_without_a_network_it_may_help_to_try_again(keys: S3Server, tmp_path: Path) -> None:
    for attempt in (
        lambda: fetch_file("s3://data/rows.csv", tmp_path, NOWHERE),
        lambda: fetch_folder("s3://models/x", tmp_path / "x", NOWHERE),
        lambda: check_writable("s3://models/out", NOWHERE),
        lambda: list_folders("s3://models/out", NOWHERE),
        lambda: delete_folder("s3://models/out", NOWHERE),
    ):
        with pytest.raises(StorageFailed, match=r"could not be reached \(.*127\.0\.0\.1:9.*\)\. Trying again may help"):
            attempt()


def test_a_server_that_goes_away_meanwhile_fails_in_a_way_that_is_retried(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_s3_server(tmp_path / "other") as server:
        server.make_bucket("models")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        s3._client.cache_clear()
        check_writable("s3://models/out", server.settings)
    with pytest.raises(StorageFailed, match="could not be reached"):
        publish_folder(folder, "s3://models/out", server.settings)
    s3._client.cache_clear()


def test_a_name_that_can_be_no_bucket_is_told_before_anything_is_sent(keys: S3Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"s3://not a bucket/x can't be used"):
        fetch_file("s3://not a bucket/x", tmp_path, keys.settings)
    with pytest.raises(ConfigInvalid, match="nothing can be stored there; name an s3:// address or a folder"):
        publish_folder(tmp_path, "https://example.org/x", keys.settings)
