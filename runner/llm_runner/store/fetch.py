"""Brings what a run needs to this machine: data files, base models, and folders published earlier."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from llm_api.run import S3Settings

from llm_runner.errors import DataInvalid, ModelAccessDenied, ModelNotFound, RunError, StorageFailed
from llm_runner.store.digest import SUMS_NAME, check_sums, list_files
from llm_runner.store.download import download
from llm_runner.store.hub import fetch_hub_file, fetch_hub_model
from llm_runner.store.ranges import S3File, find_s3_file, look_up
from llm_runner.store.s3 import PART_SIZE_BYTES, get_object, list_objects, s3_client
from llm_runner.store.s3_errors import s3_reading
from llm_runner.store.single import one_at_a_time
from llm_runner.store.uri import HubLocation, S3Location, local_path, parse_hub, parse_hub_model, parse_s3, scheme_of
from llm_runner.store.web import fetch_web_file

MODEL_CONFIG = "config.json"
DEFAULT_CACHE_PATH = Path("~/.cache/llm-operator/models")


@dataclass(frozen=True)
class FetchedModel:
    """A base model on this machine."""

    path: Path
    revision: str | None
    """The commit, where it came from a hub."""


def fetch_file(
    uri: str,
    destination: Path,
    s3: S3Settings,
    token: str | None = None,
    *,
    missing: type[RunError] = DataInvalid,
) -> Path:
    """The file at ``uri``: a local one as it is, any other downloaded into the folder ``destination``.

    Raises:
        missing: nothing is there.
        ModelAccessDenied: the credentials do not open it.
        StorageFailed: storage or network failed.
    """
    match scheme_of(uri):
        case "file":
            return _local_file(uri, missing)
        case "s3":
            location = parse_s3(uri)
            path = destination / location.key.rpartition("/")[2]
            with s3_reading(uri, missing=missing, denied=ModelAccessDenied):
                get_object(s3_client(s3), location, path)
            return path
        case "hf":
            return fetch_hub_file(_hub_file(uri, missing), destination, token, missing=missing)
        case "https":
            return fetch_web_file(uri, destination, missing=missing)


def fetch_table(uri: str, destination: Path, s3: S3Settings, token: str | None = None) -> Path | S3File:
    """The file at ``uri``, as ``fetch_file`` brings it, or left where it is: an object of more than one part is read by
    ranges, as it may be larger than this machine's disk, and a small one arrives sooner than its first rows alone.

    Raises what ``fetch_file`` raises.
    """
    if scheme_of(uri) == "s3":
        file = find_s3_file(parse_s3(uri), s3)
        if file is not None and file.size_bytes > PART_SIZE_BYTES:
            return file
    return fetch_file(uri, destination, s3, token)


def fetch_model(
    base_model: str,
    *,
    model_root: Path | None = None,
    cache_path: Path | None = None,
    s3: S3Settings | None = None,
    token: str | None = None,
    key: str = "base_model",
) -> FetchedModel:
    """The folder of a model or adapter: a local one, under ``model_root`` or here; else s3://; else by its hub id.

    Args:
        key: what the config calls it, for messages.
        cache_path: where downloads are kept between runs; None: the hub library's own cache, ~/.cache for S3.

    Raises:
        ModelNotFound, ModelAccessDenied, StorageFailed: as their names say.
    """
    local = _find_local(base_model, model_root)
    if local is not None:
        return FetchedModel(local, None)
    if base_model.startswith("s3://"):
        root = DEFAULT_CACHE_PATH.expanduser() if cache_path is None else cache_path
        folder = _fetch_s3_folder(base_model, root, S3Settings() if s3 is None else s3, missing=ModelNotFound)
        return FetchedModel(folder, None)
    _check_hub_id(base_model, model_root, key)
    path, revision = fetch_hub_model(parse_hub_model(base_model), cache_path, token, missing=ModelNotFound)
    return FetchedModel(path, revision)


def fetch_model_config(
    base_model: str, destination: Path, *, model_root: Path | None, s3: S3Settings, token: str | None
) -> Path:
    """A folder with a model's config.json: its own where it is here, else ``destination``, without any weights.

    Raises:
        ModelNotFound, ModelAccessDenied, StorageFailed: as their names say.
    """
    local = _find_local(base_model, model_root)
    if local is not None:
        return local
    if base_model.startswith("s3://"):
        uri = f"{base_model.rstrip('/')}/{MODEL_CONFIG}"
        return fetch_file(uri, destination, s3, missing=ModelNotFound).parent
    _check_hub_id(base_model, model_root, "base_model")
    location = replace(parse_hub_model(base_model), path=MODEL_CONFIG)
    return fetch_hub_file(location, destination, token, missing=ModelNotFound).parent


def fetch_folder(uri: str, destination: Path, s3: S3Settings) -> Path:
    """A folder that ``publish_folder`` wrote, whole and verified: a local one where it is, else downloaded.

    Raises:
        StorageFailed: it is not there, torn, or can't be reached.
    """
    folder = local_path(uri) if scheme_of(uri) == "file" else download_folder(uri, destination, s3)
    check_sums(folder)
    return folder


def download_folder(uri: str, destination: Path, s3: S3Settings) -> Path:
    """Everything in an s3:// folder, whole or not.

    Raises:
        StorageFailed: it is not there, or can't be reached.
    """
    _download_all(parse_s3(uri), destination, s3, missing=StorageFailed)
    return destination


def _local_file(uri: str, missing: type[RunError]) -> Path:
    path = local_path(uri)
    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise missing(f"{uri} {kind} (looked for {path.absolute()})")
    return path


def _hub_file(uri: str, missing: type[RunError]) -> HubLocation:
    location = parse_hub(uri)
    if not location.path:
        raise missing(f"{uri} is a whole repository; name a file in it: {uri}/FILE")
    return location


def _find_local(base_model: str, model_root: Path | None) -> Path | None:
    if scheme_of(base_model) != "file":
        return None
    given = local_path(base_model)
    places = [given] if model_root is None else [model_root / given, given]
    return next((place.absolute() for place in places if place.is_dir()), None)


def _check_hub_id(base_model: str, model_root: Path | None, key: str) -> None:
    """What can't be a hub's id was meant as a path, and the message should say so."""
    is_path = base_model.startswith((".", "/", "~")) or base_model.count("/") > 1
    if base_model.startswith("hf://") or not is_path:
        return
    places = [Path.cwd()] if model_root is None else [model_root, Path.cwd()]
    looked = "" if local_path(base_model).is_absolute() else f" (looked in {', '.join(map(str, places))})"
    raise ModelNotFound(f"{key}: there is no folder {base_model}{looked}, and it is no OWNER/NAME of a hub either")


def _fetch_s3_folder(uri: str, root: Path, s3: S3Settings, *, missing: type[RunError]) -> Path:
    location = parse_s3(uri)
    name = f"s3/{location.bucket}/{location.key}".rstrip("/")
    with one_at_a_time(root, name):
        return _refresh_s3_folder(location, root / name, s3, missing=missing)


def _refresh_s3_folder(location: S3Location, folder: Path, s3: S3Settings, *, missing: type[RunError]) -> Path:
    _download_all(location, folder, s3, missing=missing)
    if not (folder / SUMS_NAME).is_file():
        return folder
    try:
        check_sums(folder)
    except StorageFailed:
        # A file that was replaced within a second looks the same in a listing.
        shutil.rmtree(folder)
        _download_all(location, folder, s3, missing=missing)
        check_sums(folder)
    return folder


def _download_one(source: S3Location, size_bytes: int, path: Path, s3: S3Settings) -> None:
    file = look_up(source, s3) if size_bytes > PART_SIZE_BYTES else None
    if file is None:
        get_object(s3_client(s3), source, path)
    else:
        download(file, path)


def _download_all(location: S3Location, folder: Path, s3: S3Settings, *, missing: type[RunError]) -> None:
    """Downloads what is not there yet, or has changed since; removes what is no part of it any more."""
    client = s3_client(s3)
    with s3_reading(str(location), missing=missing, denied=ModelAccessDenied):
        found = list_objects(client, location)
        for name, item in found.items():
            path = folder / name
            if name == SUMS_NAME or not item.is_at(path):
                _download_one(location.at(name), item.size_bytes, path, s3)
                os.utime(path, (item.modified_at_seconds, item.modified_at_seconds))
    if not found:
        raise missing(f"{location} is empty or does not exist. Check the bucket and the path")
    for name in set(list_files(folder)) - found.keys():
        (folder / name).unlink()
