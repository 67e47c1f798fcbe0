"""A real S3 server over a folder, versitygw, for clients on this machine and for pods of a test cluster."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from llm_api.run import S3Settings
from llm_runner.store import s3

from tests.support.cluster.build import build_program
from tests.support.cluster.process import Process, free_port

ACCESS_KEY, SECRET_KEY = "tester", "tester-secret"


@dataclass(frozen=True)
class S3Server:
    """A server that is up, and the folder in which every sub-folder is a bucket."""

    address: str
    port: int
    folder: Path
    process: Process

    @property
    def endpoint_url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def settings(self) -> S3Settings:
        return S3Settings(endpoint_url=self.endpoint_url, region="us-east-1")

    @property
    def environment(self) -> dict[str, str]:
        """Variables that give a client the server's keys."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    def make_bucket(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir()
        return path

    def start(self) -> None:
        """Starts it, also once more after a test stopped its process."""
        self.process.start()
        self.process.wait_until(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.address, self.port)) == 0


@contextmanager
def using_keys(server: S3Server, patch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, with its keys in the environment; clients that other tests made are forgotten."""
    for name, value in server.environment.items():
        patch.setenv(name, value)
    s3._client.cache_clear()
    yield server
    s3._client.cache_clear()


@contextmanager
def run_s3_server(folder: Path, address: str = "127.0.0.1") -> Iterator[S3Server]:
    """Starts a server on a free port of this address, which is the host's for pods, and stops it in the end."""
    port, data, iam = free_port(address), folder / "data", folder / "iam"
    for path in (data, iam):
        path.mkdir(parents=True)
    command = [str(build_program("versitygw")), "--port", f"{address}:{port}", "--iam-dir", str(iam), "--quiet"]
    keys = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    server = S3Server(address, port, data, Process([*command, "posix", str(data)], folder / "server.log", keys))
    try:
        server.start()
        yield server
    finally:
        server.process.stop()
