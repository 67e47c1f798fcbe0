"""Takes back what was published, and nothing else: a folder may hold what somebody else put there.

SHA256SUMS says what was published, so where it is missing nothing can be told apart, and all is left as it is.
"""

from contextlib import suppress
from pathlib import Path

from llm_api.run import S3Settings

from llm_runner.store.digest import SUMS_NAME, parse_sums
from llm_runner.store.publish import is_s3, local_writing
from llm_runner.store.s3 import delete_objects, get_text, s3_client
from llm_runner.store.s3_errors import s3_writing
from llm_runner.store.uri import local_path, parse_s3


def unpublish_folder(uri: str, s3: S3Settings) -> int:
    """Deletes the files that ``publish_folder`` stored at ``uri``, and gives how many there were.

    Raises:
        OutputNotWritable: it is not allowed.
        StorageFailed: storage or network failed.
    """
    if is_s3(uri):
        location, client = parse_s3(uri), s3_client(s3)
        with s3_writing(uri):
            published = _published(get_text(client, location.at(SUMS_NAME)))
            # The list goes last: while it is there, a second try knows what is left to do.
            delete_objects(client, location, published)
            delete_objects(client, location, [SUMS_NAME] if published else [])
            return len(published)
    with local_writing(uri):
        return _unpublish_path(local_path(uri))


def _unpublish_path(folder: Path) -> int:
    sums = folder / SUMS_NAME
    published = _published(sums.read_text(encoding="utf-8") if sums.is_file() else None)
    for name in published:
        (folder / name).unlink(missing_ok=True)
    sums.unlink(missing_ok=True)
    _remove_empty(folder)
    return len(published)


def _remove_empty(folder: Path) -> None:
    """Folders that hold nothing any more, innermost first."""
    inside = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
    for path in [*inside, folder]:
        with suppress(OSError):
            path.rmdir()


def _published(sums: str | None) -> list[str]:
    """Names within the folder; a list that somebody forged leads nowhere else."""
    names = [] if sums is None else sorted(parse_sums(sums))
    return [name for name in names if not name.startswith("/") and ".." not in Path(name).parts]
