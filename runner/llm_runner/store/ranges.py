"""An S3 object read by ranges, as files are: of a table that is larger than a disk only what is asked for arrives.

Every request names the version that was found first, so that no two ranges are of different ones. Downloads nothing
whole: that is ``fetch``'s.
"""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

from boto3.exceptions import RetriesExceededError
from botocore.exceptions import BotoCoreError
from llm_api.run import S3Settings

from llm_runner.errors import DataInvalid, ModelAccessDenied
from llm_runner.store.s3 import MAX_ATTEMPTS, s3_client
from llm_runner.store.s3_errors import s3_reading
from llm_runner.store.uri import S3Location

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FIRST_READ_BYTES = 2**16
"""Of a table whose first rows are looked at, hardly more is fetched than they take."""
LARGEST_READ_BYTES = 2**22
"""Who reads on waits for few answers: at 30 ms each, these are 130 MB/s."""
BROKEN_OFF = (BotoCoreError, ConnectionError, TimeoutError)
"""What happens to an answer that has begun."""


@dataclass(frozen=True)
class S3File:
    """An object as it was when it was found. Another process may be given it and open it there."""

    location: S3Location
    settings: S3Settings
    size_bytes: int
    etag: str

    @property
    def name(self) -> str:
        return self.location.key.rpartition("/")[2]

    def __str__(self) -> str:
        return str(self.location)

    def is_file(self) -> bool:
        return True

    @overload
    def open(self, mode: Literal["rb"], buffering: Literal[0]) -> io.RawIOBase: ...
    @overload
    def open(self, mode: Literal["rb"], buffering: Literal[-1] = -1) -> io.BufferedReader: ...
    def open(self, mode: Literal["rb"], buffering: Literal[-1, 0] = -1) -> io.RawIOBase | io.BufferedReader:
        """As a path's ``open``: from its beginning, reading ahead; unbuffered, each read is one request of its length.

        Reading raises StorageFailed where the object has changed or the store can't be reached, and what
        ``s3_reading`` says for the rest.
        """
        if buffering == 0:
            return _Ranges(self, most_bytes=self.size_bytes)
        return io.BufferedReader(_Ranges(self, most_bytes=FIRST_READ_BYTES), LARGEST_READ_BYTES)

    def read_range(self, start: int, count: int) -> bytes:
        """Exactly these bytes, which must lie within the object."""
        with s3_reading(str(self), missing=DataInvalid, denied=ModelAccessDenied):
            return self.request(start, count)

    def request(self, start: int, count: int) -> bytes:
        """The same, with boto3's own errors.

        The client tries again until an answer begins; what breaks off in its midst is asked for anew here.
        """
        failure: Any = None
        for _ in range(MAX_ATTEMPTS):
            response = s3_client(self.settings).get_object(
                Bucket=self.location.bucket,
                Key=self.location.key,
                Range=f"bytes={start}-{start + count - 1}",
                IfMatch=self.etag,
            )
            try:
                with response["Body"] as body:
                    return body.read()
            except BROKEN_OFF as error:
                failure = error
        raise RetriesExceededError(failure)


class _Ranges(io.RawIOBase):
    """One request for each read. A read gives ``most_bytes`` at most, the next one twice that, and so on."""

    def __init__(self, file: S3File, most_bytes: int) -> None:
        self._file = file
        self._most_bytes = most_bytes
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size_bytes}[whence]
        self._place = start + offset
        return self._place

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        count = min(len(view), self._most_bytes, self._file.size_bytes - self._place)
        if count <= 0:
            return 0
        view[:count] = self._file.read_range(self._place, count)
        self._place += count
        self._most_bytes *= 2
        return count


def find_s3_file(location: S3Location, settings: S3Settings) -> S3File | None:
    """What ``look_up`` gives.

    Raises:
        DataInvalid: nothing is there.
        ModelAccessDenied: the credentials do not open it.
        StorageFailed: storage or network failed.
    """
    with s3_reading(str(location), missing=DataInvalid, denied=ModelAccessDenied):
        return look_up(location, settings)


def look_up(location: S3Location, settings: S3Settings) -> S3File | None:
    """Asks the store for the object's size and version, and for nothing of its content. None where it keeps no versions
    apart, as some servers of a folder's files: nobody could tell whether two ranges belong together.
    """
    head = s3_client(settings).head_object(Bucket=location.bucket, Key=location.key)
    etag = head.get("ETag")
    return None if etag is None else S3File(location, settings, head["ContentLength"], etag)
