"""Several machines prepare what one does: each its part of the rows, and all the same files, byte for byte."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from llm_api.config import load_config
from llm_runner.data.prepare import prepare_data
from llm_runner.data.prepared import PreparedData
from llm_runner.data.read import Table, open_table
from llm_runner.data.source import DataFile, DataFiles
from llm_runner.data.together import ALONE, Together
from llm_runner.errors import DataInvalid, StorageFailed

from tests.support.byte_tokenizer import byte_tokenizer
from tests.support.machines import Threads, run_together

TOKENIZER = byte_tokenizer("<s>")
ROWS: list[dict[str, Any]] = [
    {
        "question": f"Größe {number}? {'日本 ' * (number % 9)}" if number % 11 else None,
        "answer": f"{number} €" if number % 7 else None,
        "worse": f"no {number}",
        "topic": ["tea", "rye", "oat"][number * number % 3],
    }
    for number in range(230)
]
LONG = {"question": "x" * 5_000, "answer": "y", "worse": "z", "topic": "tea"}
PARTS = [1, 2, 3, 7, 400]


def to_jsonl(rows: list[dict[str, Any]], end: str = "\n") -> bytes:
    return end.join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


TEXTS = {
    "plain": to_jsonl(ROWS),
    "with a mark and windows line ends": b"\xef\xbb\xbf" + to_jsonl(ROWS, "\r\n") + b"\r\n",
    "blank lines": b"\n\n" + to_jsonl(ROWS, "\n\n  \n") + b"\n\n",
    "a row longer than several parts": to_jsonl([*ROWS[:3], LONG, *ROWS[3:5], LONG]),
    "a single row": to_jsonl([LONG]),
    "a mark and hardly more": b"\xef\xbb\xbf{}",
}


def rows_of(table: Table) -> list[dict[str, Any]]:
    return list(table.rows(table.columns))


def check_parts(table: Table, count: int) -> list[int]:
    """That they are the table's rows, in order; gives how many each has."""
    parts = [rows_of(table.part(number, count)) for number in range(count)]
    assert [row for part in parts for row in part] == rows_of(table)
    return [len(part) for part in parts]


@pytest.mark.parametrize("count", PARTS)
@pytest.mark.parametrize("name", TEXTS)
def test_each_line_is_in_one_part(tmp_path: Path, name: str, count: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(TEXTS[name])
    lengths = check_parts(open_table(path), count)
    if name == "plain" and count < 10:
        assert max(lengths) < 1.3 * len(ROWS) / count


def test_a_part_begins_with_the_line_that_begins_at_its_border(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a":1}\n' * 6)
    assert check_parts(open_table(path), 3) == [2, 2, 2]


@pytest.mark.parametrize("count", PARTS)
@pytest.mark.parametrize("group_rows", [1, 30, 230])
def test_rows_of_parquet_are_divided_evenly_whatever_its_groups(tmp_path: Path, group_rows: int, count: int) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet", row_group_size=group_rows)
    lengths = check_parts(open_table(tmp_path / "rows.parquet"), count)
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("name", ["rows.csv", "rows.json", "rows.jsonl.gz"])
def test_what_can_not_be_divided_is_the_first_part_as_a_whole(tmp_path: Path, name: str) -> None:
    contents = {"rows.csv": b"a\n1\n2\n", "rows.json": b'[{"a":1},{"a":2}]'}
    (tmp_path / name).write_bytes(contents.get(name, gzip.compress(b'{"a":1}\n{"a":2}\n')))
    assert check_parts(open_table(tmp_path / name), 3) == [2, 0, 0]


def test_a_broken_line_has_its_number_in_the_file_whoever_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n" + to_jsonl([*ROWS, {}, *ROWS]).replace(b"{}", b"{oops}"))
    table = replace(open_table(write_rows(tmp_path / "good.jsonl")), path=path)
    with pytest.raises(DataInvalid, match=rf"rows\.jsonl, line {len(ROWS) + 2}: broken JSON: .*oops"):
        rows_of(table.part(1, 3))


def write_rows(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=50)
    elif path.suffix == ".json":
        path.write_bytes(json.dumps(rows).encode())
    else:
        path.write_bytes(to_jsonl(rows))
    return path


CASES: dict[str, dict[str, Any]] = {
    "random": {},
    "stratified": {"preprocessing": {"split": {"type": "stratify", "column": "topic"}}},
    "hashed": {"preprocessing": {"split": {"type": "hash", "column": "topic"}}},
    "sampled": {"preprocessing": {"sample_ratio": 0.5}},
    "cut": {"preprocessing": {"global_max_sequence_length": 20}},
    "filled from the row before": {"input": {"missing_value_strategy": "ffill"}},
    "filled with the mode": {"input": {"missing_value_strategy": "fill_with_mode"}},
    "showing other rows": {
        "prompt": {
            "template": "{__task__} {__context__} {question}",
            "task": "say",
            "retrieval": {"type": "random", "k": 2},
        }
    },
    "pairs": {
        "trainer": {"type": "dpo", "rejected_column": "worse"},
        "adapter": {"type": "lora"},
    },
}


def prepare(
    folder: Path, files: DataFiles, sections: dict[str, Any], together: Together, warnings: list[str]
) -> PreparedData:
    sections = dict(sections)
    config = {
        "base_model": "tiny",
        "input_features": [{"name": "question", "type": "text", "preprocessing": sections.pop("input", {})}],
        "output_features": [{"name": "answer", "type": "text"}],
        **sections,
    }
    return prepare_data(
        load_config(config),
        TOKENIZER,
        files,
        context_length=512,
        work_path=folder / f"{together.number} of {together.count}",
        seed=5,
        warn=warnings.append,
        together=together,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "json"])
@pytest.mark.parametrize("case", CASES)
def test_all_machines_end_up_with_what_one_alone_prepares(tmp_path: Path, case: str, suffix: str) -> None:
    train = DataFile(write_rows(tmp_path / f"train.{suffix}"))
    test = DataFile(write_rows(tmp_path / f"test.{suffix}", ROWS[:40]))
    files = DataFiles(train, test=test)
    warned: list[str] = []
    alone = prepare(tmp_path, files, CASES[case], ALONE, warned)
    whole = contents(tmp_path / "0 of 1")
    assert sum(map(len, whole.values())) > 1_000

    def work(together: Threads) -> tuple[PreparedData, list[str]]:
        heard: list[str] = []
        return prepare(tmp_path, files, CASES[case], together, heard), heard

    for count in (2, 3):
        for number, (data, heard) in enumerate(run_together(count, work)):
            assert contents(tmp_path / f"{number} of {count}") == whole
            assert (data.counts, data.digest, data.examples) == (alone.counts, alone.digest, alone.examples)
            assert (data.pool, data.table_columns, len(data.rejected)) == (
                alone.pool,
                alone.table_columns,
                len(alone.rejected),
            )
            assert heard == warned


def test_machines_that_found_different_files_do_not_mix_them(tmp_path: Path) -> None:
    files = [DataFiles(DataFile(write_rows(tmp_path / f"{number}.jsonl", ROWS[number:]))) for number in range(2)]
    with pytest.raises(StorageFailed, match=r"[01]\.jsonl: the machines of this run found different versions of it"):
        run_together(2, lambda together: prepare(tmp_path, files[together.number], {}, together, []))
