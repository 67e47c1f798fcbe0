"""A real S3 server and a hub, up for all tests of the store."""

from collections.abc import Iterator

import pytest

from tests.support.hub import HubServer, run_hub_server
from tests.support.s3 import S3Server, run_s3_server, using_keys


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with run_s3_server(tmp_path_factory.mktemp("s3")) as server:
        for bucket in ("data", "models"):
            server.make_bucket(bucket)
        yield server


@pytest.fixture
def keys(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with using_keys(server, monkeypatch) as server_with_keys:
        yield server_with_keys


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    with run_hub_server(tmp_path_factory.mktemp("hub")) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
