"""Objects of an S3 store: get, put with a verified checksum, list, delete. Failures come through as boto3's own."""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from llm_api.run import S3Settings

from llm_runner.errors import StorageFailed
from llm_runner.store.uri import S3Location

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART_SIZE_BYTES = 16 * 2**20
CONNECT_TIMEOUT_SECONDS = 10
READ_TIMEOUT_SECONDS = 60
MAX_ATTEMPTS = 4
DEFAULT_REGION = "us-east-1"
DELETE_BATCH = 1000

TRANSFER = TransferConfig(multipart_threshold=PART_SIZE_BYTES, multipart_chunksize=PART_SIZE_BYTES)


@dataclass(frozen=True)
class S3Object:
    """What a listing says of an object."""

    size_bytes: int
    modified_at_seconds: float
    """Seconds since 1970."""

    def is_at(self, path: Path) -> bool:
        """Whether a file is this very object, downloaded earlier and stamped with its time."""
        stat = path.stat() if path.is_file() else None
        return stat is not None and (stat.st_size, int(stat.st_mtime)) == (
            self.size_bytes,
            int(self.modified_at_seconds),
        )


def s3_client(settings: S3Settings) -> "S3Client":
    """A client for the store; credentials are found the way that every AWS program finds them."""
    return _client(settings.endpoint_url, settings.region)


@cache
def _client(endpoint_url: str | None, region: str | None) -> "S3Client":
    session = boto3.session.Session()
    return session.client(
        "s3",
        endpoint_url=endpoint_url,
        # Stores that are not AWS's take any region, but the client needs one.
        region_name=region if region is not None else (session.region_name or DEFAULT_REGION),
        config=Config(
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=READ_TIMEOUT_SECONDS,
            retries={"mode": "standard", "max_attempts": MAX_ATTEMPTS},
            # A store of one's own seldom has a host name for each bucket.
            s3={"addressing_style": "auto" if endpoint_url is None else "path"},
        ),
    )


def get_object(client: "S3Client", source: S3Location, destination: Path) -> None:
    """Downloads to a file; nothing is left under its name unless all of it arrived."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.with_name(f".partial-{destination.name}")
    try:
        client.download_file(source.bucket, source.key, str(partial), Config=TRANSFER)
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)


def put_object(client: "S3Client", source: Path, destination: S3Location) -> None:
    """Uploads a file with SHA-256 checksums and verifies what was stored.

    Raises:
        StorageFailed: the store holds something else than the file.
    """
    client.upload_file(
        str(source), destination.bucket, destination.key, ExtraArgs={"ChecksumAlgorithm": "SHA256"}, Config=TRANSFER
    )
    if not _is_stored(client, source, destination):
        raise StorageFailed(f"{destination}: what is stored differs from {source} after the upload. Try again")


def _is_stored(client: "S3Client", source: Path, location: S3Location) -> bool:
    head = client.head_object(Bucket=location.bucket, Key=location.key, ChecksumMode="ENABLED")
    if head["ContentLength"] != source.stat().st_size:
        return False
    stored = head.get("ChecksumSHA256")
    if stored is None:
        # The store keeps no checksums, so only reading it all back can tell.
        return _digest_of_object(client, location) == _whole_digest(source)
    return stored == (_composite_digest(source) if "-" in stored else _whole_digest(source))


def _digest_of_object(client: "S3Client", location: S3Location) -> str:
    body = client.get_object(Bucket=location.bucket, Key=location.key)["Body"]
    digest = hashlib.sha256()
    for chunk in body.iter_chunks(PART_SIZE_BYTES):
        digest.update(chunk)
    return base64.b64encode(digest.digest()).decode()


def _whole_digest(path: Path) -> str:
    with path.open("rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha256").digest()).decode()


def _composite_digest(path: Path) -> str:
    """S3's checksum of an object uploaded in parts: the digest of the parts' digests, and how many there are."""
    digests = [hashlib.sha256(part).digest() for part in _parts(path)]
    return f"{base64.b64encode(hashlib.sha256(b''.join(digests)).digest()).decode()}-{len(digests)}"


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PART_SIZE_BYTES):
            yield part


def put_text(client: "S3Client", text: str, destination: S3Location) -> None:
    client.put_object(Bucket=destination.bucket, Key=destination.key, Body=text.encode(), ChecksumAlgorithm="SHA256")


def get_text(client: "S3Client", source: S3Location) -> str | None:
    """The text of a small object, or None where there is none."""
    try:
        return client.get_object(Bucket=source.bucket, Key=source.key)["Body"].read().decode()
    except client.exceptions.NoSuchKey:
        return None


def list_objects(client: "S3Client", folder: S3Location) -> dict[str, S3Object]:
    """Everything in a folder and below it, by the path within the folder."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=folder.bucket, Prefix=folder.prefix)
    found = {
        item["Key"].removeprefix(folder.prefix): S3Object(item["Size"], item["LastModified"].timestamp())
        for page in pages
        for item in page.get("Contents", [])
    }
    # Consoles mark folders by empty objects whose names end in a slash.
    return {name: item for name, item in found.items() if name and not name.endswith("/")}


def list_prefixes(client: "S3Client", folder: S3Location) -> list[str]:
    """Names of the folders directly in a folder."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=folder.bucket, Prefix=folder.prefix, Delimiter="/")
    prefixes = (item["Prefix"] for page in pages for item in page.get("CommonPrefixes", []))
    return sorted(prefix.removeprefix(folder.prefix).rstrip("/") for prefix in prefixes)


def delete_objects(client: "S3Client", folder: S3Location, names: list[str]) -> None:
    """Deletes objects by their paths within a folder; those that are not there count as deleted."""
    for start in range(0, len(names), DELETE_BATCH):
        keys = [{"Key": folder.at(name).key} for name in names[start : start + DELETE_BATCH]]
        result = client.delete_objects(Bucket=folder.bucket, Delete={"Objects": keys, "Quiet": True})  # type: ignore[typeddict-item]
        if errors := result.get("Errors"):
            raise StorageFailed(f"{folder}: {errors[0].get('Key')} could not be deleted: {errors[0].get('Message')}")
