"""What an address means, from its text alone. Nothing is looked up."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from llm_runner.errors import ConfigInvalid

Scheme = Literal["file", "s3", "hf", "https"]

HUB_KINDS = {"datasets": "dataset", "models": "model", "spaces": "space"}


@dataclass(frozen=True)
class S3Location:
    """An object, or everything whose key starts with a folder's."""

    bucket: str
    key: str
    """Without a slash at either end; empty is the whole bucket."""

    @property
    def prefix(self) -> str:
        """What the keys of everything in the folder start with."""
        return f"{self.key}/" if self.key else ""

    def at(self, name: str) -> "S3Location":
        return S3Location(self.bucket, f"{self.prefix}{name}")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class HubLocation:
    """A repository of a hub, or one file in it."""

    repo_id: str
    repo_type: str
    path: str
    """Empty for the whole repository."""
    revision: str | None


def scheme_of(uri: str) -> Scheme:
    """How the address is to be reached. Text without a scheme is a local path."""
    scheme = uri.partition("://")[0] if "://" in uri else "file"
    match scheme:
        case "file" | "s3" | "hf" | "https":
            return scheme
        case "http":
            return "https"
    raise ConfigInvalid(f"{uri}: {scheme}:// is not known here; use s3://, hf://, https:// or the path of a file")


def public_uri(uri: str) -> str:
    """The address without what may open it: a login before the host, a signature behind the question mark."""
    if not uri.startswith(("http://", "https://")):
        return uri
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def local_path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path)) if uri.startswith("file://") else Path(uri).expanduser()


def parse_s3(uri: str) -> S3Location:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigInvalid(f"{uri}: no bucket is named; write s3://BUCKET/PATH")
    return S3Location(bucket, key.strip("/"))


def parse_hub(uri: str) -> HubLocation:
    """Reads hf://datasets/OWNER/NAME[@REVISION]/PATH and hf://OWNER/NAME[@REVISION]/PATH (a model's)."""
    parts = uri.removeprefix("hf://").strip("/").split("/")
    repo_type = HUB_KINDS[parts.pop(0)] if parts[0] in HUB_KINDS else "model"
    if len(parts) < 2 or not all(parts):
        raise ConfigInvalid(f"{uri}: write hf://datasets/OWNER/NAME/FILE, or hf://OWNER/NAME/FILE for a model's file")
    name, revision = _split_revision(parts[1])
    return HubLocation(f"{parts[0]}/{name}", repo_type, "/".join(parts[2:]), revision)


def parse_hub_model(base_model: str) -> HubLocation:
    """Reads OWNER/NAME[@REVISION], or the bare NAME of an old model, with or without hf://."""
    repo_id, revision = _split_revision(base_model.removeprefix("hf://").removeprefix("models/").strip("/"))
    return HubLocation(repo_id, "model", "", revision)


def _split_revision(text: str) -> tuple[str, str | None]:
    name, _, revision = text.partition("@")
    return name, revision if revision else None
