"""One tiny model whose answers differ from row to row and one of likeness, made once, and an S3 server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embeddings import save_topic_model
from tests.support.models import llama_config, save_model
from tests.support.s3 import S3Server, run_s3_server, using_keys


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("answering"), llama_config(initializer_range=0.3), seed=1)


@pytest.fixture(scope="session")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of likeness that is set by hand."""
    return save_topic_model(tmp_path_factory.mktemp("topics"))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with run_s3_server(tmp_path_factory.mktemp("s3")) as server:
        server.make_bucket("data")
        yield server


@pytest.fixture
def keys(store: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with using_keys(store, monkeypatch) as server_with_keys:
        yield server_with_keys
