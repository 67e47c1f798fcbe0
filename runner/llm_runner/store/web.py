"""Files from the web, by plain HTTPS."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests

from llm_runner.errors import ModelAccessDenied, RunError, StorageFailed
from llm_runner.store.uri import public_uri

CONNECT_TIMEOUT_SECONDS = 10
READ_TIMEOUT_SECONDS = 60
CHUNK_SIZE_BYTES = 2**20


def fetch_web_file(url: str, destination: Path, *, missing: type[RunError]) -> Path:
    """Downloads into a folder, under the last part of the address; nothing is left there unless all of it arrived."""
    destination.mkdir(parents=True, exist_ok=True)
    name = Path(unquote(urlsplit(url).path)).name or "download"
    partial, path = destination / f".partial-{name}", destination / name
    try:
        _download(url, partial, missing)
        return partial.replace(path)
    except requests.RequestException as error:
        raise StorageFailed(
            f"{public_uri(url)} could not be reached ({_say(error, url)}). Trying again may help"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _download(url: str, partial: Path, missing: type[RunError]) -> None:
    timeout = (CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
    with requests.get(url, stream=True, timeout=timeout) as response:
        _check_status(url, response.status_code, missing)
        with partial.open("wb") as file:
            for chunk in response.iter_content(CHUNK_SIZE_BYTES):
                file.write(chunk)


def _say(error: Exception, url: str) -> str:
    """What the library says, which holds the address with all its secrets."""
    query = urlsplit(url).query
    text = str(error).replace(url, public_uri(url))
    return text.replace(f"?{query}", "") if query else text


def _check_status(url: str, status: int, missing: type[RunError]) -> None:
    name = public_uri(url)
    if status in (401, 403):
        raise ModelAccessDenied(f"{name}: access is denied ({status}); only addresses that need no login work")
    if 400 <= status < 500 and status not in (408, 429):
        raise missing(f"{name} does not exist ({status}). Check the address")
    if status != requests.codes.ok:
        raise StorageFailed(f"{name}: the server answered {status}. Trying again may help")
