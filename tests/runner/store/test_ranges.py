"""Tables in a real S3 server, read by ranges: the same rows as of a file, and no more fetched than is asked for."""

import gzip
import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from botocore.exceptions import ResponseStreamingError
from llm_api.run import S3Settings
from llm_runner.data.read import Row, open_table
from llm_runner.data.storedfile import digest
from llm_runner.errors import DataInvalid, ModelAccessDenied, StorageFailed
from llm_runner.store import s3
from llm_runner.store.fetch import fetch_table
from llm_runner.store.ranges import FIRST_READ_BYTES, LARGEST_READ_BYTES, S3File, find_s3_file
from llm_runner.store.s3 import MAX_ATTEMPTS, PART_SIZE_BYTES, s3_client
from llm_runner.store.uri import parse_s3

from tests.support.data_memory import FEW_ROWS, MOST_GROWTH_BYTES, measure_growth, write
from tests.support.data_memory import ROWS as MANY_ROWS
from tests.support.s3 import S3Server

ROWS = [
    {"question": f"Größe {number}: {'日本語 😀' * (number % 40)}", "answer": f"{number} €\nsecond line"}
    for number in range(3_000)
]
"""Several reads long, and most letters take several bytes, so that every border of a read cuts something."""


def to_csv(rows: list[dict[str, str]]) -> bytes:
    records = (f'"{row["question"]}","{row["answer"]}"\n' for row in rows)
    return "".join(["question,answer\n", *records]).encode()


def to_jsonl(rows: list[dict[str, str]]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def to_parquet(rows: list[dict[str, str]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=len(rows) // 5, compression="none")
    return bytes(sink.getvalue())


CONTENTS: dict[str, Callable[[], bytes]] = {
    "rows.jsonl": lambda: to_jsonl(ROWS),
    "rows.csv": lambda: to_csv(ROWS),
    "rows.json": lambda: json.dumps(ROWS, ensure_ascii=False).encode(),
    "rows.parquet": lambda: to_parquet(ROWS),
    "rows.jsonl.gz": lambda: gzip.compress(to_jsonl(ROWS), compresslevel=0),
}
"""JSON lines without a line break at their end."""


def store(server: S3Server, name: str, content: bytes) -> S3File:
    s3_client(server.settings).put_object(Bucket="data", Key=f"ranges/{name}", Body=content)
    found = find_s3_file(parse_s3(f"s3://data/ranges/{name}"), server.settings)
    assert found is not None
    return found


@contextmanager
def counting_bytes(server: S3Server) -> Iterator[list[int]]:
    """The bytes of each answer to a request for content."""
    counts: list[int] = []

    def count(parsed: dict[str, Any], **_: Any) -> None:
        counts.append(parsed["ContentLength"])

    events = s3_client(server.settings).meta.events
    events.register("after-call.s3.GetObject", count)
    try:
        yield counts
    finally:
        events.unregister("after-call.s3.GetObject", count)


def rows_of(file: Any) -> Iterator[Row]:
    table = open_table(file)
    return table.rows(table.columns)


@pytest.mark.parametrize("name", CONTENTS)
def test_rows_and_digest_are_those_of_the_same_file_here(keys: S3Server, name: str) -> None:
    file = store(keys, name, CONTENTS[name]())
    with counting_bytes(keys) as counts:
        assert list(rows_of(file)) == ROWS
    assert len(counts) > 5, "it was not read in parts"
    assert digest([file]) == digest([keys.folder / "data" / "ranges" / name])


def test_the_first_rows_of_a_large_table_are_there_after_a_small_part_of_it(keys: S3Server) -> None:
    rows = [{"question": f"{number} {'word ' * 200}", "answer": str(number)} for number in range(20_000)]
    for name, content in (("large.jsonl", to_jsonl(rows)), ("large.parquet", to_parquet(rows))):
        file = store(keys, name, content)
        assert file.size_bytes > 20_000_000
        with counting_bytes(keys) as counts:
            assert list(islice(rows_of(file), 3)) == rows[:3]
        assert sum(counts) < file.size_bytes / 4


def test_of_parquet_only_the_columns_asked_for_are_fetched(keys: S3Server) -> None:
    file = store(keys, "columns.parquet", to_parquet([{**row, "long": "x" * 2_000 + str(row)} for row in ROWS]))
    table = open_table(file)
    with counting_bytes(keys) as counts:
        assert [row["answer"] for row in table.rows(["answer"])] == [row["answer"] for row in ROWS]
    assert sum(counts) < file.size_bytes / 10


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_of_several_machines_each_fetches_about_its_part(keys: S3Server, name: str) -> None:
    rows = [{"question": f"{number} {'word ' * 200}", "answer": str(number)} for number in range(20_000)]
    contents = {"rows.jsonl": to_jsonl, "rows.parquet": to_parquet}
    file = store(keys, f"parts-{name}", contents[name](rows))
    table, found = open_table(file), list[Row]()
    for number in range(5):
        part = table.part(number, 5)
        with counting_bytes(keys) as counts:
            found += part.rows(part.columns)
        assert sum(counts) < file.size_bytes / 5 + 2 * LARGEST_READ_BYTES
    assert found == rows


def test_reads_grow_from_a_small_one_to_no_more_than_the_largest(keys: S3Server) -> None:
    file = store(keys, "long.jsonl", b"0123456789\n" * (3 * LARGEST_READ_BYTES // 11))
    with counting_bytes(keys) as counts, file.open("rb") as stream:
        assert sum(len(line) for line in stream) == file.size_bytes
    assert counts[:3] == [FIRST_READ_BYTES, 2 * FIRST_READ_BYTES, 4 * FIRST_READ_BYTES]
    assert max(counts) == LARGEST_READ_BYTES


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.json", "rows.parquet"])
def test_a_table_that_is_replaced_while_it_is_read_ends_the_run_with_what_happened(keys: S3Server, name: str) -> None:
    file = store(keys, name, CONTENTS[name]())
    table = open_table(file)
    rows = table.rows(table.columns)
    assert next(rows) == ROWS[0]
    store(keys, name, CONTENTS[name]() + b" ")
    with pytest.raises(
        StorageFailed, match=rf"s3://data/ranges/{name} was replaced while it was read .*Trying again reads"
    ):
        list(rows)


def test_a_table_that_is_deleted_meanwhile_is_told(keys: S3Server) -> None:
    file = store(keys, "deleted.jsonl", to_jsonl(ROWS))
    (keys.folder / "data" / "ranges" / "deleted.jsonl").unlink()
    with pytest.raises(DataInvalid, match=r"s3://data/ranges/deleted\.jsonl does not exist"):
        open_table(file)


def test_a_broken_line_is_told_with_its_address(keys: S3Server) -> None:
    file = store(keys, "broken.jsonl", to_jsonl(ROWS) + b"\n{oops}\n")
    with pytest.raises(DataInvalid, match=r"^s3://data/ranges/broken\.jsonl, line 3001: broken JSON: .*oops"):
        list(rows_of(file))


def test_a_store_that_goes_away_meanwhile_fails_in_a_way_that_is_retried(keys: S3Server) -> None:
    file = store(keys, "away.parquet", to_parquet(ROWS))
    elsewhere = replace(file, settings=S3Settings(endpoint_url="http://127.0.0.1:9", region="us-east-1"))
    with pytest.raises(
        StorageFailed, match=r"s3://data/ranges/away\.parquet could not be reached .*Trying again may help"
    ):
        open_table(elsewhere)


class Breaking:
    """A body that breaks off."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self) -> bytes:
        raise ResponseStreamingError(error="connection broken")


@pytest.mark.parametrize("times", [1, MAX_ATTEMPTS])
def test_an_answer_that_breaks_off_is_asked_for_again_and_not_without_end(keys: S3Server, times: int) -> None:
    file = store(keys, "breaks.jsonl", to_jsonl(ROWS))
    left = [times]

    def break_off(parsed: dict[str, Any], **_: Any) -> None:
        if left[0] > 0:
            left[0] -= 1
            parsed["Body"] = Breaking()

    events = s3_client(keys.settings).meta.events
    events.register("after-call.s3.GetObject", break_off)
    try:
        if times < MAX_ATTEMPTS:
            assert list(rows_of(file)) == ROWS
        else:
            with pytest.raises(StorageFailed, match="could not be reached"):
                open_table(file)
    finally:
        events.unregister("after-call.s3.GetObject", break_off)


def test_another_process_reads_what_it_is_given(keys: S3Server) -> None:
    file = pickle.loads(pickle.dumps(store(keys, "given.jsonl", to_jsonl(ROWS))))
    assert list(rows_of(file)) == ROWS


def test_only_a_table_of_several_parts_stays_where_it_is(keys: S3Server, tmp_path: Path) -> None:
    for size, kind in ((PART_SIZE_BYTES, Path), (PART_SIZE_BYTES + 1, S3File)):
        store(keys, "sized.jsonl", b" " * size)
        fetched = fetch_table("s3://data/ranges/sized.jsonl", tmp_path, keys.settings)
        assert isinstance(fetched, kind)
        assert (fetched.name, str(fetched).endswith("sized.jsonl")) == ("sized.jsonl", True)


def test_without_versions_to_tell_apart_a_table_is_downloaded(keys: S3Server, tmp_path: Path) -> None:
    """As of a file that was laid into the server's folder by hand."""
    (keys.folder / "data" / "by-hand.jsonl").write_bytes(b" " * (PART_SIZE_BYTES + 1))
    fetched = fetch_table("s3://data/by-hand.jsonl", tmp_path, keys.settings)
    assert isinstance(fetched, Path)
    assert fetched.stat().st_size == PART_SIZE_BYTES + 1


def test_missing_tables_and_wrong_keys_are_told_as_for_any_file(
    keys: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataInvalid, match=r"^s3://data/none\.csv does not exist .*Check the bucket and the path"):
        fetch_table("s3://data/none.csv", tmp_path, keys.settings)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "n0t-th3-s3cr3t")
    s3._client.cache_clear()
    with pytest.raises(ModelAccessDenied, match="access is denied"):
        fetch_table("s3://data/none.csv", tmp_path, keys.settings)


@pytest.mark.timeout(300)
def test_a_table_many_times_as_long_takes_no_more_memory_over_the_network(keys: S3Server, tmp_path: Path) -> None:
    for suffix in ("parquet", "jsonl"):
        for name, rows in (("few", FEW_ROWS), ("many", MANY_ROWS)):
            path = write(tmp_path / f"{name}.{suffix}", rows)
            s3_client(keys.settings).upload_file(str(path), "data", path.name)
            path.unlink()
    growth = measure_growth(tmp_path, keys.endpoint_url)
    assert {suffix: grown for suffix, grown in growth.items() if grown > MOST_GROWTH_BYTES} == {}
