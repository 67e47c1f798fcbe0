"""Which of the five table formats a file has: by its name, then by its content. Reads no rows."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, cast

from llm_runner.data.storedfile import StoredFile
from llm_runner.errors import DataInvalid

Format = Literal["csv", "tsv", "jsonl", "json", "parquet"]

FORMAT_BY_SUFFIX: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
}
GZIP_MAGIC = b"\x1f\x8b"
UTF8_BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
SNIFFED_BYTES = 4096


def detect_format(path: StoredFile, written: str = "auto") -> Format:
    """The format of the file ``path``; ``written`` is what the user wrote, ``auto`` to find out.

    A ``.json`` file that begins with an object is read as one object a line, as many tools write it.

    Raises DataInvalid where the file is not there, is empty, or is none of the five formats.
    """
    head = _read_head(path)
    if written != "auto":
        return _checked(path, cast(Format, written), head)
    named = _format_of_name(path)
    if named == "json" and head.startswith(b"{"):
        return "jsonl"
    return _checked(path, named if named is not None else _format_of_content(path, head), head)


@contextmanager
def open_bytes(path: StoredFile) -> Iterator[IO[bytes]]:
    """The file's bytes, unzipped if it is gzip, from behind a UTF-8 byte order mark."""
    with path.open("rb") as raw, gzip.open(raw) if raw.peek(2).startswith(GZIP_MAGIC) else raw as stream:
        if stream.peek(len(UTF8_BOM)).startswith(UTF8_BOM):
            stream.read(len(UTF8_BOM))
        yield cast(IO[bytes], stream)


def is_zipped(path: StoredFile) -> bool:
    with path.open("rb") as raw:
        return raw.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC)


def _read_head(path: StoredFile) -> bytes:
    if not path.is_file():
        raise DataInvalid(f"{path}: there is no such file")
    try:
        with open_bytes(path) as stream:
            head = stream.read(SNIFFED_BYTES)
    except (OSError, EOFError) as error:
        raise DataInvalid(f"{path}: can't be read: {error}") from error
    if not head.strip():
        raise DataInvalid(f"{path}: the file is empty; a dataset needs at least one row")
    return head.lstrip()


def _format_of_name(path: StoredFile) -> Format | None:
    suffixes = [suffix.lower() for suffix in Path(path.name).suffixes if suffix.lower() != ".gz"]
    return FORMAT_BY_SUFFIX.get(suffixes[-1]) if suffixes else None


def _format_of_content(path: StoredFile, head: bytes) -> Format:
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"[", b"{")):
        return "json" if head.startswith(b"[") else "jsonl"
    if b"\0" in head and not head.startswith(UTF16_BOMS):
        raise DataInvalid(f"{path}: not a csv, tsv, jsonl, json or parquet file; convert it to one of these")
    return "tsv" if b"\t" in head.splitlines()[0] else "csv"


def _checked(path: StoredFile, found: Format, head: bytes) -> Format:
    """Refuses what would only fail later, and less clearly."""
    if found == "parquet":
        return found
    if head.startswith(UTF16_BOMS):
        raise DataInvalid(f"{path}: the text is UTF-16; save the file as UTF-8")
    if head.startswith(b"PAR1"):
        raise DataInvalid(f"{path}: is read as {found} but holds parquet; write `format: parquet`")
    if found == "json" and not head.startswith(b"["):
        hint = "one JSON object a line is `format: jsonl`" if head.startswith(b"{") else "found " + repr(head[:20])
        raise DataInvalid(f"{path}: a json file must hold one array of objects; {hint}")
    return found
