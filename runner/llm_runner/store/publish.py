"""Puts a finished folder where others find it, so that a reader can tell a whole one from a torn one.

SHA256SUMS is taken away first and written last: while it is missing, the folder is not whole. A folder that was not
there before appears in one step. Files that are no part of what is published are left alone.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from llm_api.run import S3Settings

from llm_runner.errors import ConfigInvalid, OutputNotWritable, StorageFailed
from llm_runner.store.digest import SUMS_NAME, list_files, parse_sums, write_sums
from llm_runner.store.s3 import (
    delete_objects,
    get_text,
    list_objects,
    list_prefixes,
    put_object,
    put_text,
    s3_client,
)
from llm_runner.store.s3_errors import s3_reading, s3_writing
from llm_runner.store.uri import S3Location, local_path, parse_s3, scheme_of

PARTIAL = ".partial-"
NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
NOT_A_FOLDER = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


@dataclass(frozen=True)
class Published:
    """What was stored, and how to check it."""

    uri: str
    digest: str
    """``sha256:`` and the digest of SHA256SUMS, which covers every file."""
    size_bytes: int


def publish_folder(folder: Path, uri: str, s3: S3Settings) -> Published:
    """Stores all files of ``folder`` at ``uri``, an s3:// or a local folder, in place of what was published there.

    Raises:
        OutputNotWritable: it is not allowed.
        StorageFailed: storage or network failed, or what arrived is not what was sent.
    """
    digest = write_sums(folder)
    if is_s3(uri):
        _publish_to_s3(folder, parse_s3(uri), s3)
    else:
        with local_writing(uri):
            _publish_to_path(folder, local_path(uri))
    size_bytes = sum((folder / name).stat().st_size for name in list_files(folder))
    return Published(uri=uri, digest=digest, size_bytes=size_bytes)


def check_writable(uri: str, s3: S3Settings) -> None:
    """Writes something small at ``uri`` and deletes it, so that a run can't fail at its very end.

    Raises:
        OutputNotWritable: it is not allowed, or the bucket does not exist.
        StorageFailed: storage or network failed.
    """
    name = f".probe-{uuid4().hex}"
    if is_s3(uri):
        location = parse_s3(uri)
        with s3_writing(uri):
            put_text(s3_client(s3), "", location.at(name))
            delete_objects(s3_client(s3), location, [name])
        return
    with local_writing(uri):
        folder = local_path(uri)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and not folder.is_dir():
            raise OutputNotWritable(f"{uri} is a file; name a folder")
        probe = (folder if folder.is_dir() else folder.parent) / name
        probe.touch()
        probe.unlink()


def list_folders(uri: str, s3: S3Settings) -> list[str]:
    """Names of the folders directly at ``uri``, sorted; none where nothing is. Torn ones are among them."""
    if is_s3(uri):
        with s3_reading(uri, missing=StorageFailed, denied=OutputNotWritable):
            return list_prefixes(s3_client(s3), parse_s3(uri))
    folder = local_path(uri)
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def delete_folder(uri: str, s3: S3Settings) -> None:
    """Deletes a folder with all that is in it; one that is not there counts as deleted."""
    if is_s3(uri):
        location, client = parse_s3(uri), s3_client(s3)
        with s3_writing(uri):
            delete_objects(client, location, [SUMS_NAME])
            delete_objects(client, location, list(list_objects(client, location)))
        return
    with local_writing(uri), suppress(FileNotFoundError):
        (local_path(uri) / SUMS_NAME).unlink(missing_ok=True)
        shutil.rmtree(local_path(uri))


def is_s3(uri: str) -> bool:
    scheme = scheme_of(uri)
    if scheme not in ("s3", "file"):
        raise ConfigInvalid(f"{uri}: nothing can be stored there; name an s3:// address or a folder")
    return scheme == "s3"


def _publish_to_s3(folder: Path, location: S3Location, s3: S3Settings) -> None:
    client, names = s3_client(s3), list_files(folder)
    with s3_writing(str(location)):
        before = get_text(client, location.at(SUMS_NAME))
        delete_objects(client, location, [SUMS_NAME])
        for name in names:
            put_object(client, folder / name, location.at(name))
        delete_objects(client, location, _left_over(before, names))
        put_object(client, folder / SUMS_NAME, location.at(SUMS_NAME))


def _left_over(before: str | None, names: list[str]) -> list[str]:
    """What was published before and is not now."""
    return [] if before is None else sorted(parse_sums(before).keys() - set(names))


def _publish_to_path(folder: Path, destination: Path) -> None:
    if not destination.exists():
        partial = destination.with_name(f"{PARTIAL}{destination.name}")
        _copy(folder, partial)
        partial.rename(destination)
        return
    sums, partial = destination / SUMS_NAME, destination / f"{PARTIAL}{folder.name}"
    before = sums.read_text(encoding="utf-8") if sums.is_file() else None
    _copy(folder, partial)
    sums.unlink(missing_ok=True)
    names = list_files(folder)
    for name in names:
        (destination / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).replace(destination / name)
    for name in _left_over(before, names):
        (destination / name).unlink(missing_ok=True)
    (partial / SUMS_NAME).replace(sums)
    shutil.rmtree(partial)


def _copy(folder: Path, partial: Path) -> None:
    """Copies aside; what an earlier attempt left there goes first."""
    if partial.exists():
        shutil.rmtree(partial)
    shutil.copytree(folder, partial)


@contextmanager
def local_writing(uri: str) -> Iterator[None]:
    """Translates what goes wrong while something is written to a local path."""
    try:
        yield
    except OSError as error:
        if error.errno in NOT_ALLOWED:
            raise OutputNotWritable(
                f"{uri} may not be written ({error}). Choose another folder, or allow it"
            ) from error
        if error.errno in NOT_A_FOLDER:
            raise OutputNotWritable(f"{uri} is not a folder, or lies below a file ({error})") from error
        raise StorageFailed(f"{uri} could not be written ({error})") from error
