"""What was published is taken back, in a folder and in S3, and what somebody else put beside it stays."""

from collections.abc import Callable
from pathlib import Path

import pytest
from llm_api.run import S3Settings
from llm_runner.store.digest import SUMS_NAME
from llm_runner.store.publish import publish_folder
from llm_runner.store.unpublish import unpublish_folder

from tests.support.s3 import S3Server

Place = tuple[str, Path, S3Settings]


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An address, where it lies on this machine, and how it is reached."""
    if request.param == "folder":
        return str(tmp_path / "out"), tmp_path / "out", S3Settings()
    server: S3Server = request.getfixturevalue("keys")
    name = tmp_path.name
    return f"s3://models/{name}", server.folder / "models" / name, server.settings


@pytest.fixture
def publish(place: Place, tmp_path: Path) -> Callable[..., None]:
    def publish(**files: str) -> None:
        source = tmp_path / "artifact"
        (source / "deep").mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (source / name).write_text(text)
        (source / "deep" / "file").write_text("deep")
        publish_folder(source, place[0], place[2])

    return publish


def test_all_files_that_were_published_go_and_the_folder_with_them(place: Place, publish: Callable[..., None]) -> None:
    publish(weights="w", card="c")
    assert unpublish_folder(place[0], place[2]) == 3
    assert [path for path in place[1].rglob("*") if path.is_file()] == []


def test_what_somebody_else_put_there_stays(place: Place, publish: Callable[..., None]) -> None:
    publish(weights="w")
    (place[1] / "mine.txt").write_text("mine")
    unpublish_folder(place[0], place[2])
    assert [path.name for path in place[1].rglob("*") if path.is_file()] == ["mine.txt"]


def test_a_second_time_and_a_place_where_nothing_is_are_no_errors(place: Place, publish: Callable[..., None]) -> None:
    publish(weights="w")
    assert [unpublish_folder(place[0], place[2]) for _ in range(2)] == [2, 0]
    assert unpublish_folder(f"{place[0]}-nothing", place[2]) == 0


def test_a_folder_without_its_list_is_left_alone(place: Place, publish: Callable[..., None]) -> None:
    publish(weights="w")
    (place[1] / SUMS_NAME).unlink()
    assert unpublish_folder(place[0], place[2]) == 0
    assert (place[1] / "weights").is_file()


def test_a_forged_list_deletes_nothing_elsewhere(tmp_path: Path) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("precious")
    (out / SUMS_NAME).write_text(f"0  ../victim\n0  {victim}\n")
    unpublish_folder(str(out), S3Settings())
    assert victim.read_text() == "precious"
