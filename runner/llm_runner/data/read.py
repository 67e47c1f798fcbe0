"""Rows of a table, one dict each, streamed so that a file may be larger than memory.

Values come as the format has them: text from CSV and TSV, where an empty cell is a missing value (None), and text,
numbers, booleans, lists and objects from the others. Fetches nothing, chooses no rows and gives values no meaning.
"""

import csv
import gzip
import io
import json
import zlib
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice
from typing import IO, Any

import ijson  # type: ignore[import-untyped]
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from llm_runner.data.format import Format, detect_format, is_zipped, open_bytes
from llm_runner.data.storedfile import StoredFile
from llm_runner.errors import DataInvalid

Row = dict[str, Any]

BATCH_ROWS = 1000
PARQUET_BUFFER_BYTES = 2**20
"""Of a column: without, a whole row group's, which may be the whole file's, would be read at once."""
MAX_CELL_CHARS = 2**31 - 1
EXCERPT_CHARS = 60


@dataclass(frozen=True)
class Share:
    """A part of a table, of ``count`` that are about as long; one whose number is past the last has no rows."""

    number: int
    count: int

    def span(self, length: int) -> range:
        """Of so many rows or bytes in all, those of this part."""
        return range(length * self.number // self.count, min(length, length * (self.number + 1) // self.count))


WHOLE = Share(0, 1)


@dataclass(frozen=True)
class Table:
    """A file whose format is known and which has at least one row."""

    path: StoredFile
    format: Format
    columns: tuple[str, ...]
    """Of JSON, the keys of the first ``BATCH_ROWS`` objects."""
    share: Share = WHOLE
    """The part of it that ``rows`` gives."""

    def part(self, number: int, count: int, *, divides: bool = True) -> "Table":
        """One of ``count`` parts, which are all rows in their order. Where the table can't be divided, or shall not be,
        the first part is all of it.
        """
        can = divides and (self.format == "parquet" or (self.format == "jsonl" and not is_zipped(self.path)))
        return replace(self, share=Share(number, count if can else 1))

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """All rows of its share in the file's order, each with exactly these columns; None where a row has no value.

        Raises DataInvalid, naming file and line, where the file is broken.
        """
        for row in _read(self.path, self.format, columns, self.share):
            yield {column: row.get(column) for column in columns}


def open_table(path: StoredFile, written_format: str = "auto") -> Table:
    """Looks into the file: its format, its columns, and that it has a row. Raises DataInvalid."""
    found = detect_format(path, written_format)
    first_rows = list(islice(_read(path, found, None), BATCH_ROWS))
    if not first_rows:
        raise DataInvalid(f"{path}: the {found} file has no rows; a dataset needs at least one")
    return Table(path, found, tuple(dict.fromkeys(column for row in first_rows for column in row)))


def _read(path: StoredFile, found: Format, columns: Sequence[str] | None, share: Share = WHOLE) -> Iterator[Row]:
    if share.number >= share.count:
        return
    try:
        if found == "parquet":
            yield from _read_parquet(path, columns, share)
            return
        with open_bytes(path) as stream:
            if found == "jsonl":
                yield from _read_jsonl(path, stream, share)
            else:
                yield from TEXT_READERS[found](path, stream)
    except UnicodeDecodeError as error:
        raise DataInvalid(_describe_encoding(path)) from error
    except (OSError, EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowException) as error:
        raise DataInvalid(f"{path}: the {found} file can't be read: {str(error).splitlines()[0]}") from error


@contextmanager
def open_parquet(path: StoredFile) -> Iterator[pq.ParquetFile]:
    """Reads the footer, and of the rest what is asked for."""
    with path.open("rb", 0) as stream:
        yield pq.ParquetFile(stream, buffer_size=PARQUET_BUFFER_BYTES, pre_buffer=False)


def _read_parquet(path: StoredFile, columns: Sequence[str] | None, share: Share) -> Iterator[Row]:
    """Of the row groups that have rows of the share, of which there may be one for several shares."""
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        _refuse_duplicates(path, names)
        wanted = [name for name in names if columns is None or name in columns]
        ends = list(accumulate(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)))
        rows = share.span(file.metadata.num_rows)
        groups = range(bisect_right(ends, rows.start), bisect_left(ends, rows.stop) + 1) if rows else range(0)
        before = rows.start - (ends[groups.start - 1] if groups.start > 0 else 0)
        batches = file.iter_batches(batch_size=BATCH_ROWS, columns=wanted, row_groups=list(groups))
        found = (row for batch in batches for row in batch.to_pylist())
        yield from islice(found, before, before + len(rows))


def _read_csv(path: StoredFile, stream: IO[bytes]) -> Iterator[Row]:
    yield from _read_cells(path, stream, delimiter=None)


def _read_tsv(path: StoredFile, stream: IO[bytes]) -> Iterator[Row]:
    yield from _read_cells(path, stream, delimiter="\t")


def _read_cells(path: StoredFile, stream: IO[bytes], delimiter: str | None) -> Iterator[Row]:
    with io.TextIOWrapper(stream, encoding="utf-8", newline="") as text:
        first_line = text.readline()
        delimiter = _delimiter_of(first_line) if delimiter is None else delimiter
        yield from _rows_of_records(path, _records(path, chain([first_line], text), delimiter))


def _rows_of_records(path: StoredFile, records: Iterator[tuple[int, list[str]]]) -> Iterator[Row]:
    _, header = next(records, (1, []))
    _refuse_duplicates(path, header)
    for line, cells in records:
        if len(cells) != len(header):
            raise DataInvalid(_describe_ragged(path, line, len(cells), len(header)))
        yield {name: cell if cell != "" else None for name, cell in zip(header, cells, strict=True)}


def _records(path: StoredFile, lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line that it begins on, counted from 1; blank lines are left out."""
    csv.field_size_limit(MAX_CELL_CHARS)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        hint = "is a quote not closed, or not doubled inside a cell?"
        raise DataInvalid(f"{path}, line {line}: {error}; {hint}") from error


def _delimiter_of(header: str) -> str:
    """Spreadsheets of many countries write semicolons into what they call CSV."""
    if "," in header:
        return ","
    return next((mark for mark in ";\t" if mark in header), ",")


def _read_jsonl(path: StoredFile, stream: IO[bytes], share: Share) -> Iterator[Row]:
    """Of a part, the lines that begin in it: where its borders lie within lines, these end behind them."""
    place, end = stream.tell(), None
    if share.count > 1:
        span = share.span(stream.seek(0, io.SEEK_END))
        end = span.stop
        if span.start > place:
            # A line that begins just at the border is found behind the break before it.
            stream.seek(span.start - 1)
            place = span.start - 1 + len(stream.readline())
        else:
            stream.seek(place)
    while (end is None or place < end) and (text := stream.readline()):
        if text.strip():
            yield _json_object(path, place, text)
        place += len(text)


def _json_object(path: StoredFile, place: int, text: bytes) -> Row:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        line = _line_at(path, place)
        raise DataInvalid(f"{path}, line {line}: broken JSON: {error.msg} in {_excerpt(error.doc)}") from error
    if not isinstance(value, dict):
        found = _excerpt(text.decode())
        raise DataInvalid(f"{path}, line {_line_at(path, place)}: each line must be a JSON object, found {found}")
    return value


def _line_at(path: StoredFile, place: int) -> int:
    """The number, from 1, of the line that begins at a byte: all before is read once more, to tell what is wrong."""
    with open_bytes(path) as stream:
        line = 1
        while stream.tell() < place:
            stream.readline()
            line += 1
        return line


def _read_json(path: StoredFile, stream: IO[bytes]) -> Iterator[Row]:
    items = ijson.items(stream, "item", use_float=True)
    try:
        for number, value in enumerate(items, start=1):
            if not isinstance(value, dict):
                raise DataInvalid(f"{path}, item {number}: must be a JSON object, found {_excerpt(json.dumps(value))}")
            yield value
    except ijson.JSONError as error:
        raise DataInvalid(_describe_broken_json(path, error)) from error


def _describe_broken_json(path: StoredFile, error: Exception) -> str:
    """The streaming parser knows no line numbers, so the file is parsed once more, at the cost of memory."""
    with open_bytes(path) as stream:
        try:
            json.load(stream)
        except json.JSONDecodeError as exact:
            around = exact.doc[max(0, exact.pos - EXCERPT_CHARS // 2) : exact.pos + EXCERPT_CHARS // 2]
            return f"{path}, line {exact.lineno}: broken JSON: {exact.msg} near {_excerpt(around)}"
    return f"{path}: broken JSON: {str(error).splitlines()[0]}"


def _describe_encoding(path: StoredFile) -> str:
    with open_bytes(path) as stream:
        for line, text in enumerate(stream, start=1):
            try:
                text.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = text[error.start]
                return f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8; save the file with the encoding UTF-8"
    return f"{path}: the text is not UTF-8; save the file with the encoding UTF-8"


def _describe_ragged(path: StoredFile, line: int, cell_count: int, header_count: int) -> str:
    return (
        f"{path}, line {line}: {cell_count} cells where the header has {header_count}; "
        "a cell that holds the delimiter or a line break must stand in double quotes"
    )


def _refuse_duplicates(path: StoredFile, names: Sequence[str]) -> None:
    duplicates = sorted(name for name, count in Counter(names).items() if count > 1)
    if duplicates:
        raise DataInvalid(f"{path}: more than one column is called {', '.join(map(repr, duplicates))}; rename them")


def _excerpt(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= EXCERPT_CHARS else text[:EXCERPT_CHARS] + "…")


TEXT_READERS: dict[str, Callable[[StoredFile, IO[bytes]], Iterator[Row]]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "json": _read_json,
}
