"""One tiny model and one server of it, made once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import RunningServer, running_server, save_chat_model, serve_run


@pytest.fixture(scope="session")
def chat_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("chat-model"))


@pytest.fixture(scope="session")
def server(chat_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Greedy, and long enough answers for everything."""
    run = serve_run(chat_model_path, {"generation": {"do_sample": False, "max_new_tokens": 24}})
    with running_server(run, tmp_path_factory.mktemp("server")) as running:
        yield running
