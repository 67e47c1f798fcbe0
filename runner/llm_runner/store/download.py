"""Large objects of an S3 store as files: ranges side by side, and what has arrived survives whoever was fetching it.

Beside the file that is to be lie, until it is whole, what there is of it and a list of the ranges that it holds. The
next process goes on from there, if the store still has the same version.
"""

import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TextIO

from llm_runner.store.ranges import S3File

RANGE_BYTES = 8 * 2**20
PARALLEL_RANGES = 8
"""They are in memory at once."""
LISTED_PREFIX, PARTIAL_PREFIX = ".arrived-", ".partial-"


def download(file: S3File, destination: Path) -> None:
    """All of it, under its name only once it is whole. Raises boto3's errors, and keeps what has arrived till then."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.with_name(PARTIAL_PREFIX + destination.name)
    listed = destination.with_name(LISTED_PREFIX + destination.name)
    version = f"{file.etag} {file.size_bytes} {RANGE_BYTES}\n"
    arrived = _read_list(listed, version) if partial.is_file() else set()
    with partial.open("r+b" if arrived else "wb") as content, listed.open("w") as listing:
        # Anew, since the next line would go on where one broke off.
        _note(listing, version, *(f"{start}\n" for start in sorted(arrived)))
        content.truncate(file.size_bytes)
        missing = [start for start in range(0, file.size_bytes, RANGE_BYTES) if start not in arrived]
        _fetch(file, content.fileno(), listing, missing)
    partial.replace(destination)
    listed.unlink()


def _read_list(listed: Path, version: str) -> set[int]:
    """Where the ranges begin that have arrived of this very version. A line that broke off counts for nothing."""
    if not listed.is_file():
        return set()
    first, *lines = listed.read_text().splitlines(keepends=True) or [""]
    return {int(line) for line in lines if line.endswith("\n")} if first == version else set()


def _fetch(file: S3File, content: int, listing: TextIO, starts: list[int]) -> None:
    def fetch(start: int) -> int:
        body = file.request(start, min(RANGE_BYTES, file.size_bytes - start))
        written = 0
        while written < len(body):
            written += os.pwrite(content, body[written:], start + written)
        return start

    with ThreadPoolExecutor(PARALLEL_RANGES) as pool:
        fetching = [pool.submit(fetch, start) for start in starts]
        try:
            for future in as_completed(fetching):
                start = future.result()
                # A list that says more than the disk holds would make a damaged file of it after a power failure.
                os.fdatasync(content)
                _note(listing, f"{start}\n")
        finally:
            pool.shutdown(cancel_futures=True)


def _note(listing: TextIO, *lines: str) -> None:
    listing.writelines(lines)
    listing.flush()
