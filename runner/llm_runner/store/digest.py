"""One digest for a whole folder, that anyone can check: SHA256SUMS is what ``sha256sum`` writes.

The digest of the folder is that of SHA256SUMS itself. A folder without the file, or with one that disagrees, is torn.
"""

import hashlib
from pathlib import Path

from llm_runner.errors import StorageFailed

SUMS_NAME = "SHA256SUMS"


def list_files(folder: Path) -> list[str]:
    """Paths of all files within the folder, sorted, without SHA256SUMS itself."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != SUMS_NAME)


def write_sums(folder: Path) -> str:
    """Writes SHA256SUMS over all files of the folder, and gives the folder's digest."""
    text = "".join(f"{file_digest(folder / name)}  {name}\n" for name in list_files(folder))
    (folder / SUMS_NAME).write_text(text, encoding="utf-8")
    return digest_of_sums(text.encode())


def digest_of_sums(content: bytes) -> str:
    """A folder's digest, from what its SHA256SUMS holds."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def parse_sums(text: str) -> dict[str, str]:
    """Digests by path, out of the text of SHA256SUMS."""
    pairs = (line.split("  ", 1) for line in text.splitlines() if line)
    return {name: digest for digest, name in pairs}


def check_sums(folder: Path) -> None:
    """Raises unless all files that SHA256SUMS lists are there, and as it says.

    Raises:
        StorageFailed: the folder is torn.
    """
    path = folder / SUMS_NAME
    if not path.is_file():
        raise StorageFailed(f"{folder} has no {SUMS_NAME}: writing it was broken off")
    for name, digest in parse_sums(path.read_text(encoding="utf-8")).items():
        if not (folder / name).is_file():
            raise StorageFailed(f"{folder} lacks {name}, which its {SUMS_NAME} lists")
        if file_digest(folder / name) != digest:
            raise StorageFailed(f"{folder / name} differs from what {SUMS_NAME} says of it")


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
