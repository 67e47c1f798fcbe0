"""Models and data sets from a Hugging Face hub, and artifacts to it. ``HF_ENDPOINT`` may name another hub."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from llm_runner.errors import ConfigInvalid, ModelAccessDenied, OutputNotWritable, RunError, StorageFailed
from llm_runner.store.uri import HubLocation

OWN_CONFIG = "llm_config.yaml"
"""Only what a run of this project has stored has it; what such prompts show lies in the folder beside it."""
OWN_FOLDER = "examples/"
MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "tokenizer*", OWN_CONFIG]
"""Weights, configs and tokenizers; pickled weights and other frameworks' are never fetched."""

UNWANTED_FILES = ["*/*", "consolidated*"]
"""Copies of the weights in other layouts."""

XET_VARIABLE = "HF_HUB_DISABLE_XET"
"""The library's own; written, it decides."""
GIVE_TOKEN = "give a token by HF_TOKEN in the environment or credentials.huggingFace"


def read_token(path: str | None) -> str | None:
    """None leaves it to the hub's library, which knows HF_TOKEN, HUGGING_FACE_HUB_TOKEN and its own login."""
    if path is None:
        return None
    try:
        token = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"credentials.huggingFace: the token in {path} can't be read") from error
    if not token.isascii() or not token.isprintable() or " " in token or not token:
        raise ConfigInvalid(f"credentials.huggingFace: {path} holds no token; it is one word, such as hf_...")
    return token


def fetch_hub_file(location: HubLocation, destination: Path, token: str | None, *, missing: type[RunError]) -> Path:
    """Downloads one file of a repository into a folder."""
    with hub_errors(location.repo_id, token, missing=missing):
        path = hf_hub_download(
            location.repo_id,
            location.path,
            repo_type=location.repo_type,
            revision=location.revision,
            local_dir=destination,
            token=token,
            endpoint=endpoint(),
        )
    return Path(path)


def fetch_hub_model(
    location: HubLocation, cache_path: Path | None, token: str | None, *, missing: type[RunError]
) -> tuple[Path, str]:
    """A model's folder in the cache, and the commit that it is. What is cached already is not downloaded again."""

    def fetch(revision: str | None, wanted: Sequence[str], unwanted: Sequence[str] = ()) -> Path:
        folder = snapshot_download(
            location.repo_id,
            revision=revision,
            cache_dir=cache_path,
            token=token,
            endpoint=endpoint(),
            allow_patterns=list(wanted),
            ignore_patterns=list(unwanted),
        )
        return Path(folder)

    with hub_errors(location.repo_id, token, missing=missing):
        folder = fetch(location.revision, MODEL_FILES, UNWANTED_FILES)
        if (folder / OWN_CONFIG).is_file():
            names = HfApi(endpoint=endpoint(), token=token).list_repo_files(location.repo_id, revision=folder.name)
            if beside := [name for name in names if name.startswith(OWN_FOLDER)]:
                fetch(folder.name, beside)
    return folder, folder.name


def publish_to_hub(
    folder: Path, repo_id: str, *, private: bool, token: str | None, names: Sequence[str] | None = None
) -> str:
    """Uploads a folder as a model, in a repository that is made if it isn't there. Returns the commit's address.

    ``names``: the only files of it that are meant; None: all.
    """
    _send_by_lfs_elsewhere()
    with hub_errors(repo_id, token, missing=OutputNotWritable, denied=OutputNotWritable, to="write there"):
        api = HfApi(endpoint=endpoint(), token=token)
        _create_repository(api, repo_id, private=private)
        allowed = None if names is None else list(names)
        message = "Add tuned model"
        return str(
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, allow_patterns=allowed)
        )


def is_hidden(repo_id: str, *, private: bool, token: str | None) -> bool:
    """Whether a repository is private; one that isn't there is made as ``private`` says."""
    with hub_errors(repo_id, token, missing=OutputNotWritable, denied=OutputNotWritable, to="write there"):
        api = HfApi(endpoint=endpoint(), token=token)
        return bool(api.model_info(repo_id).private) if api.repo_exists(repo_id) else private


def _send_by_lfs_elsewhere() -> None:
    """Only the public hub is known to take large files by Xet, which the library waits for elsewhere without an end."""
    if endpoint() is not None and XET_VARIABLE not in os.environ:
        constants.HF_HUB_DISABLE_XET = True


def _create_repository(api: HfApi, repo_id: str, *, private: bool) -> None:
    """Where it isn't there; a token that may make none may still write to one that is."""
    try:
        api.create_repo(repo_id, private=private)
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status != 409 and not (status in (401, 403) and api.repo_exists(repo_id)):
            raise


def endpoint() -> str | None:
    """The hub to use, looked up at each call; None is the public one."""
    return os.environ.get("HF_ENDPOINT")


@contextmanager
def hub_errors(
    name: str,
    token: str | None,
    *,
    missing: type[RunError],
    denied: type[RunError] = ModelAccessDenied,
    to: str = "read it",
) -> Iterator[None]:
    """Translates what goes wrong with the repository ``name``; ``to`` is what the token must allow."""
    known = (HfHubHTTPError, EntryNotFoundError, OfflineModeIsEnabled, OSError)
    try:
        yield
    except HFValidationError as error:
        raise ConfigInvalid(f"{name} is neither a folder here nor a hub's OWNER/NAME: {error}") from error
    except Exception as error:
        # Large files are sent by threads, whose errors the library wraps.
        found = error.__cause__ if type(error) is RuntimeError and isinstance(error.__cause__, Exception) else error
        # The library changed its HTTP client more than once, and lets some of that client's errors through.
        if not isinstance(found, known) and not type(found).__module__.startswith("httpx"):
            raise
        raise _translate(found, name, token, missing, denied, to) from error


def _translate(
    error: Exception, name: str, token: str | None, missing: type[RunError], denied: type[RunError], to: str
) -> RunError:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        return denied(
            f"{name} is gated: accept its licence on its page on the hub with the account that the token is of, and "
            f"{GIVE_TOKEN}"
        )
    if isinstance(error, RepositoryNotFoundError) and (status == 404 or token is None):
        return missing(
            f"{name}: the hub has no such public repository (nor is there such a folder here). Check the spelling; "
            f"if it is private, {GIVE_TOKEN}"
        )
    if status in (401, 403):
        return denied(f"{name}: the hub refused the token ({status}); {GIVE_TOKEN} that may {to}")
    if isinstance(error, RevisionNotFoundError):
        return missing(f"{name}: the hub has the repository, but not this revision")
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return missing(f"{name}: the hub has the repository, but not this file")
    return StorageFailed(
        f"{name}: the hub could not be reached ({' '.join(str(error).split())[:300]}). Trying again may help"
    )
