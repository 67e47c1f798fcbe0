"""What a table's bytes are read from: a path of this machine, or whatever else opens as a path does.

Stores that hold larger tables than a machine has room for give objects of this kind; none is known here.
"""

import hashlib
from collections.abc import Iterable
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Literal, Protocol, overload


class StoredFile(Protocol):
    """As text, it says where it is. Every ``open`` begins at its first byte, and all of them read the same bytes."""

    @property
    def name(self) -> str:
        """With the suffixes that may tell its format."""

    def is_file(self) -> bool: ...

    @overload
    def open(self, mode: Literal["rb"], buffering: Literal[0]) -> RawIOBase: ...
    @overload
    def open(self, mode: Literal["rb"], buffering: Literal[-1] = -1) -> BufferedReader: ...


def version_of(file: StoredFile) -> object:
    """Equal for all who have the same file: of one of a machine its size, any other says it by itself."""
    return file.stat().st_size if isinstance(file, Path) else file


def digest(files: Iterable[StoredFile]) -> str:
    """SHA-256 of the files' bytes, one file after the other."""
    summed = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(2**20):
                summed.update(chunk)
    return summed.hexdigest()
