"""Reading tables: every format gives the same rows, and every broken file says what is broken and where."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from llm_runner.data.read import open_table
from llm_runner.errors import DataInvalid

ROWS = [
    {"question": "What is 1 + 1?", "answer": "2"},
    {"question": 'She said "hi", then left', "answer": "two\nlines"},
    {"question": "Größe: 3 €", "answer": "日本語"},
]


def csv_text(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"'

    records = [list(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(delimiter.join(quoted(cell) for cell in record) for record in records) + "\n"


def jsonl_text(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=2)
    return bytes(sink.getvalue())


CONTENTS: dict[str, Callable[[], bytes]] = {
    "csv": lambda: csv_text(ROWS).encode(),
    "tsv": lambda: csv_text(ROWS, "\t").encode(),
    "jsonl": lambda: jsonl_text(ROWS).encode(),
    "json": lambda: json.dumps(ROWS, indent=2).encode(),
    "parquet": lambda: parquet_bytes(ROWS),
}


def read_all(path: Path, written_format: str = "auto") -> list[dict[str, Any]]:
    table = open_table(path, written_format)
    return list(table.rows(table.columns))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path, written_format: str = "auto") -> str:
    with pytest.raises(DataInvalid) as caught:
        read_all(path, written_format)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", CONTENTS)
def test_each_format_is_known_by_its_name(name: str, tmp_path: Path) -> None:
    assert read_all(write(tmp_path / f"data.{name}", CONTENTS[name]())) == ROWS


@pytest.mark.parametrize("name", CONTENTS)
def test_each_format_is_known_by_its_content(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "0f3a", CONTENTS[name]())
    assert open_table(path).format == name
    assert read_all(path) == ROWS


@pytest.mark.parametrize("name", ["csv", "tsv", "jsonl", "json"])
def test_gzip_and_a_byte_order_mark_change_nothing(name: str, tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + CONTENTS[name]()
    assert read_all(write(tmp_path / f"data.{name}.gz", gzip.compress(content))) == ROWS
    assert read_all(write(tmp_path / f"data.{name}", content)) == ROWS


def test_only_the_columns_asked_for_come_and_a_key_that_is_not_there_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", '{"a": 1, "b": 2}\n\n{"a": 3}\n')
    table = open_table(path)
    assert table.columns == ("a", "b")
    assert list(table.rows(["b"])) == [{"b": 2}, {"b": None}]


def test_numbers_booleans_and_nested_values_keep_their_type(tmp_path: Path) -> None:
    row = {"int": 3, "float": 2.5, "bool": True, "none": None, "list": [1, "a"], "object": {"k": 1.5}}
    for name, content in (
        ("data.json", json.dumps([row]).encode()),
        ("data.jsonl", json.dumps(row).encode()),
        ("data.parquet", parquet_bytes([{**row, "list": ["1", "a"]}])),
    ):
        (read,) = read_all(write(tmp_path / name, content))
        assert {**read, "list": [1, "a"]} == row
        assert type(read["int"]) is int
        assert type(read["float"]) is float


def test_an_empty_cell_of_a_csv_file_is_a_missing_value_and_a_blank_line_is_no_row(tmp_path: Path) -> None:
    assert read_all(write(tmp_path / "data.csv", "a,b\n1,\n\n,2\n")) == [{"a": "1", "b": None}, {"a": None, "b": "2"}]


def test_a_csv_file_with_semicolons_is_read_as_such(tmp_path: Path) -> None:
    assert read_all(write(tmp_path / "data.csv", "a;b\n1,5;2\n")) == [{"a": "1,5", "b": "2"}]


def test_a_cell_may_be_larger_than_the_csv_modules_own_limit(tmp_path: Path) -> None:
    assert read_all(write(tmp_path / "data.csv", f"a\n{'x' * 200_000}\n")) == [{"a": "x" * 200_000}]


def test_windows_line_ends_are_line_ends(tmp_path: Path) -> None:
    assert read_all(write(tmp_path / "data.csv", "a,b\r\n1,2\r\n")) == [{"a": "1", "b": "2"}]
    assert read_all(write(tmp_path / "data.jsonl", '{"a": 1}\r\n{"a": 2}\r\n')) == [{"a": 1}, {"a": 2}]


def test_a_json_file_of_one_object_a_line_is_read_as_lines(tmp_path: Path) -> None:
    assert read_all(write(tmp_path / "data.json", '{"a": 1}\n{"a": 2}\n')) == [{"a": 1}, {"a": 2}]


def test_the_written_format_wins_over_the_name(tmp_path: Path) -> None:
    assert read_all(write(tmp_path / "data.txt", '"a\tb"\n1\n'), "csv") == [{"a\tb": "1"}]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "data.csv")


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_an_empty_file_is_refused(content: str, tmp_path: Path) -> None:
    assert "empty" in refusal(write(tmp_path / "data.csv", content))


@pytest.mark.parametrize(("name", "content"), [("a.csv", "a,b\n"), ("a.json", "[]"), ("a.tsv", "a\tb\n\n")])
def test_a_file_without_rows_is_refused(name: str, content: str, tmp_path: Path) -> None:
    assert "has no rows" in refusal(write(tmp_path / name, content))


def test_a_parquet_file_without_rows_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert "has no rows" in refusal(tmp_path / "a.parquet")


@pytest.mark.parametrize("cells", ["1,2,3", "1"])
def test_a_ragged_row_is_named_by_the_line_it_begins_on(cells: str, tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "data.csv", f'a,b\n"two\nlines",x\n{cells}\n'))
    assert "line 4" in message
    assert "the header has 2" in message


def test_a_quote_that_is_not_closed_is_named_by_the_line_it_begins_on(tmp_path: Path) -> None:
    assert "line 3" in refusal(write(tmp_path / "data.csv", 'a,b\n1,2\n3,"open\n5,6\n'))


def test_a_column_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    assert "'a'" in refusal(write(tmp_path / "data.csv", "a,b,a\n1,2,3\n"))
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "a.parquet")
    assert "'a'" in refusal(tmp_path / "a.parquet")


def test_a_broken_line_of_json_is_quoted_with_its_line(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "data.jsonl", '{"a": 1}\n{"a": oops}\n'))
    assert "line 2" in message
    assert "oops" in message


@pytest.mark.parametrize("line", ["[1, 2]", "3", '"text"'])
def test_a_line_of_json_that_is_no_object_is_refused(line: str, tmp_path: Path) -> None:
    assert "line 2: each line must be a JSON object" in refusal(write(tmp_path / "a.jsonl", '{"a": 1}\n' + line))


def test_a_broken_json_array_is_named_by_its_line(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "data.json", '[\n {"a": 1},\n {"a": oops}\n]'))
    assert "line 3" in message
    assert "oops" in message


def test_a_json_array_cut_short_is_refused(tmp_path: Path) -> None:
    assert "broken JSON" in refusal(write(tmp_path / "data.json", '[{"a": 1}, {"a"'))


def test_a_json_array_must_hold_objects(tmp_path: Path) -> None:
    assert "item 2: must be a JSON object, found '3'" in refusal(write(tmp_path / "data.json", '[{"a": 1}, 3]'))


def test_a_json_file_that_holds_lines_points_to_jsonl(tmp_path: Path) -> None:
    assert "`format: jsonl`" in refusal(write(tmp_path / "data.json", '{"a": 1}\n{"a": 2}'), "json")


@pytest.mark.parametrize("name", ["csv", "tsv", "jsonl", "json"])
def test_text_that_is_not_utf8_is_named_by_its_line(name: str, tmp_path: Path) -> None:
    lines = {
        "csv": "a\nx\ncafé\n",
        "tsv": "a\nx\ncafé\n",
        "jsonl": '{"a":1}\n\n{"a":"café"}',
        "json": '[\n\n{"a":"café"}]',
    }
    message = refusal(write(tmp_path / f"data.{name}", lines[name].encode("latin-1")))
    assert "line 3: byte 0xe9 is not UTF-8" in message


def test_utf16_is_named(tmp_path: Path) -> None:
    assert "UTF-16" in refusal(write(tmp_path / "data.csv", "a,b\n1,2\n".encode("utf-16")))


def test_a_cut_parquet_file_is_refused(tmp_path: Path) -> None:
    assert "can't be read" in refusal(write(tmp_path / "data.parquet", parquet_bytes(ROWS)[:-20]))


def test_a_cut_gzip_file_is_refused(tmp_path: Path) -> None:
    noise = "".join(f"{number * 7919 % 100_003},\n" for number in range(20_000))
    assert "can't be read" in refusal(write(tmp_path / "data.csv.gz", gzip.compress(f"a,b\n{noise}".encode())[:-2000]))


def test_parquet_called_csv_points_to_the_format(tmp_path: Path) -> None:
    assert "`format: parquet`" in refusal(write(tmp_path / "data.csv", parquet_bytes(ROWS)))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    assert "convert it" in refusal(write(tmp_path / "data", b"\x7fELF\0\0\0\1"))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path)
