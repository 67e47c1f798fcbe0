"""A small server that speaks the part of the Hugging Face hub's protocol that this project uses, for its real client.

Repositories are folders: ROOT/models/OWNER/NAME and ROOT/datasets/OWNER/NAME. A file ``.gated`` or ``.private`` in
one makes it so, and one ``.lfs`` has it take weights as large files, apart from the commit; the one token that opens
them, and that may write, is TOKEN. READER is one that may read all of them.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_the_token_that_opens_it"
READER = "hf_the_token_that_only_reads"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class HubServer:
    """A hub that is up, and the folder that it serves."""

    endpoint: str
    root: Path
    requests: list[str] = field(default_factory=list)
    """Method and path of every request so far."""
    refused_files: set[bytes] = field(default_factory=set)
    """Contents of large files that it takes no more."""

    def add_repository(self, repo_id: str, kind: str = "models") -> Path:
        path = self.root / kind / repo_id
        path.mkdir(parents=True)
        return path


@contextmanager
def run_hub_server(root: Path) -> Iterator[HubServer]:
    """Serves ``root`` on a free port of this machine until the block ends."""
    requests: list[str] = []
    refused_files: set[bytes] = set()

    class Handler(_Handler):
        folder = root
        seen = requests
        refused = refused_files

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield HubServer(f"http://127.0.0.1:{server.server_port}", root, requests, refused_files)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    seen: list[str]
    refused: set[bytes]

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.seen.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._has(TOKEN):
            self._send(403 if self._has(READER) else 401, b"{}", {})
        elif path == "api/repos/create":
            self._create(json.loads(body))
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._offer(json.loads(body)["objects"])
        elif path == "api/validate-yaml":
            self._send_json({"errors": [], "warnings": []})
        else:
            parts = path.split("/")
            self._receive(self.folder / "/".join(parts[1:4]), parts[4], body)

    def do_PUT(self) -> None:
        """A large file, to the address that was offered for it: that is all the leave it needs."""
        path = unquote(urlsplit(self.path).path).strip("/")
        self.seen.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body in self.refused:
            self._send(403, b"", {})
        elif hashlib.sha256(body).hexdigest() != Path(path).name:
            self._send(400, b"", {})
        else:
            (self.folder / path).parent.mkdir(exist_ok=True)
            (self.folder / path).write_bytes(body)
            self._send(200, b"", {})

    def log_message(self, *_args: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.seen.append(f"{self.command} {path}")
        is_api = path.startswith("api/")
        parts = path.removeprefix("api/").split("/")
        if parts[0] not in ("models", "datasets"):
            parts.insert(0, "models")
        repository = self.folder / "/".join(parts[:3])
        if refusal := self._refusal(repository):
            self._send(refusal[0], b"", {"X-Error-Code": refusal[1]})
        elif is_api:
            self._send_api(repository, "/".join(parts[1:3]), parts[3:])
        else:
            self._send_file(repository / "/".join(parts[5:]))

    def _create(self, wanted: dict[str, Any]) -> None:
        repo_id = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
        path = self.folder / f"{wanted.get('type') or 'model'}s" / repo_id
        existed = path.is_dir()
        path.mkdir(parents=True, exist_ok=True)
        if wanted.get("private") or wanted.get("visibility") == "private":
            (path / ".private").touch()
        self._send_json({"url": f"http://{self.headers['Host']}/{repo_id}"}, 409 if existed else 200)

    def _offer(self, objects: list[dict[str, Any]]) -> None:
        """An address for each large file that isn't here yet."""
        offered = [
            one
            if (self.folder / "lfs" / one["oid"]).is_file()
            else {**one, "actions": {"upload": {"href": f"http://{self.headers['Host']}/lfs/{one['oid']}"}}}
            for one in objects
        ]
        self._send_json({"transfer": "basic", "objects": offered})

    def _receive(self, repository: Path, action: str, body: bytes) -> None:
        """Says which files come within the commit, and takes a commit's files."""
        if action == "preupload":
            large = ".safetensors" if (repository / ".lfs").is_file() else "/"
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "lfs" if path.endswith(large) else "regular"} for path in paths]
            self._send_json({"files": [{**file, "shouldIgnore": False, "oid": None} for file in modes]})
            return
        for line in map(json.loads, body.splitlines()):
            if line["key"] in ("file", "lfsFile"):
                path = repository / line["value"]["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._content(line["value"]))
        address = f"http://{self.headers['Host']}/{repository.relative_to(self.folder / 'models')}/commit/{COMMIT}"
        self._send_json({"commitUrl": address, "commitOid": COMMIT})

    def _content(self, value: dict[str, Any]) -> bytes:
        if "content" in value:
            return base64.b64decode(value["content"])
        return (self.folder / "lfs" / value["oid"]).read_bytes()

    def _has(self, token: str) -> bool:
        return self.headers.get("Authorization") == f"Bearer {token}"

    def _send_json(self, answer: object, status: int = 200) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _refusal(self, repository: Path) -> tuple[int, str] | None:
        """Status and error code as the hub gives them: it does not tell strangers what is private."""
        is_known = self._has(TOKEN) or self._has(READER)
        if not repository.is_dir() or (repository / ".private").is_file():
            if repository.is_dir() and is_known:
                return None
            return (404 if is_known else 401), "RepoNotFound"
        if (repository / ".gated").is_file() and not is_known:
            return 401, "GatedRepo"
        return None

    def _send_api(self, repository: Path, repo_id: str, rest: list[str]) -> None:
        names = sorted(path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file())
        answer: object = {
            "id": repo_id,
            "sha": COMMIT,
            "private": (repository / ".private").is_file(),
            "siblings": [{"rfilename": name} for name in names],
        }
        if rest[:1] == ["tree"]:
            sizes = ((name, (repository / name).stat().st_size) for name in names)
            answer = [
                {"type": "file", "path": name, "size": size, "oid": _etag(repository / name)} for name, size in sizes
            ]
        self._send_json(answer)

    def _send_file(self, path: Path) -> None:
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        self._send(200, path.read_bytes(), {"ETag": f'"{_etag(path)}"'})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
