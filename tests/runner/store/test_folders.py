"""Publishing to folders of this machine: whole or not at all, and errors that say what to do."""

import os
from pathlib import Path

import pytest
from llm_api.run import S3Settings
from llm_runner.errors import DataInvalid, ModelNotFound, OutputNotWritable, StorageFailed
from llm_runner.store.digest import SUMS_NAME, check_sums
from llm_runner.store.fetch import fetch_file, fetch_folder, fetch_model
from llm_runner.store.publish import check_writable, delete_folder, list_folders, publish_folder

S3 = S3Settings()


def make_folder(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_a_published_folder_is_whole_and_checked(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "artifact", weights="w", notes="n")
    published = publish_folder(source, str(tmp_path / "deep" / "out"), S3) if check(tmp_path / "deep" / "out") else None
    assert published is not None
    assert published.uri == str(tmp_path / "deep" / "out")
    fetched = fetch_folder(published.uri, tmp_path / "unused", S3)
    assert sorted(path.name for path in fetched.iterdir()) == [SUMS_NAME, "notes", "weights"]


def check(path: Path) -> bool:
    check_writable(str(path), S3)
    return True


def test_publishing_again_removes_what_is_no_part_any_more_but_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish_folder(make_folder(tmp_path / "first", old="1", kept="1"), str(out), S3)
    (out / "checkpoints").mkdir()
    (out / "mine.txt").write_text("mine")
    publish_folder(make_folder(tmp_path / "second", new="2", kept="2"), str(out), S3)
    assert sorted(path.name for path in out.iterdir()) == [SUMS_NAME, "checkpoints", "kept", "mine.txt", "new"]
    assert (out / "kept").read_text() == "2"
    check_sums(out)


def test_a_folder_that_is_not_whole_is_told_from_one_that_is(tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish_folder(make_folder(tmp_path / "first", a="1", b="2"), str(out), S3)
    (out / "a").write_text("0")
    with pytest.raises(StorageFailed, match=f"out/a differs from what {SUMS_NAME} says of it"):
        check_sums(out)
    (out / "b").unlink()
    (out / "a").write_text("1")
    with pytest.raises(StorageFailed, match=f"lacks b, which its {SUMS_NAME} lists"):
        check_sums(out)
    (out / SUMS_NAME).unlink()
    with pytest.raises(StorageFailed, match="writing it was broken off"):
        check_sums(out)


def test_folders_are_listed_and_deleted(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden"):
        (tmp_path / "all" / name).mkdir(parents=True)
    assert list_folders(str(tmp_path / "all"), S3) == ["a", "b"]
    delete_folder(str(tmp_path / "all" / "a"), S3)
    delete_folder(str(tmp_path / "all" / "a"), S3)
    assert list_folders(str(tmp_path / "all"), S3) == ["b"]
    assert list_folders(str(tmp_path / "none"), S3) == []


def test_a_file_where_a_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputNotWritable, match="file is a file; name a folder"):
        check_writable(str(tmp_path / "file"), S3)
    with pytest.raises(OutputNotWritable, match="is not a folder, or lies below a file"):
        check_writable(str(tmp_path / "file" / "out"), S3)


@pytest.fixture
def stranger() -> int:
    """Nobody's user id; root may write anywhere, so tests that run as root become somebody else for a moment."""
    return 65534


def test_a_place_that_may_not_be_written_is_told(tmp_path: Path, stranger: int) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(stranger)
    try:
        with pytest.raises(OutputNotWritable, match=r"may not be written \(.*\)\. Choose another folder, or allow it"):
            check_writable(str(closed / "out" / "model"), S3)
    finally:
        if is_root:
            os.seteuid(0)


def test_a_missing_file_or_model_names_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match=r"rows\.csv does not exist \(looked for /"):
        fetch_file(str(tmp_path / "rows.csv"), tmp_path, S3)
    with pytest.raises(DataInvalid, match="is a folder, not a file"):
        fetch_file(str(tmp_path), tmp_path, S3)
    with pytest.raises(ModelNotFound, match=r"base_model: there is no folder \./tiny \(looked in .*models, "):
        fetch_model("./tiny", model_root=tmp_path / "models")
    with pytest.raises(ModelNotFound, match=r"^adapter\.pretrained_adapter_weights: there is no folder /none"):
        fetch_model("/none", key="adapter.pretrained_adapter_weights")


@pytest.mark.proves("base_model")
def test_a_model_is_looked_for_under_the_models_volume_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("models/tiny", "tiny", "other"):
        (tmp_path / place).mkdir(parents=True)
    assert fetch_model("tiny", model_root=tmp_path / "models").path == tmp_path / "models" / "tiny"
    assert fetch_model("other", model_root=tmp_path / "models").path == tmp_path / "other"
