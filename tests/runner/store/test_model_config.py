"""A model's config.json alone, from wherever the model is."""

from pathlib import Path

import pytest
from llm_api.run import S3Settings
from llm_runner.errors import ModelNotFound
from llm_runner.store.fetch import fetch_model_config

from tests.support.hub import HubServer

S3 = S3Settings()


def fetch(name: str, folder: Path) -> Path:
    return fetch_model_config(name, folder / "fetched", model_root=folder, s3=S3, token=None)


def test_of_a_hubs_model_nothing_else_is_fetched(hub: HubServer, tmp_path: Path) -> None:
    path = hub.add_repository("acme/tiny")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (path / name).write_text("{}")
    assert [file.name for file in fetch("acme/tiny", tmp_path).iterdir() if file.is_file()] == ["config.json"]
    assert not [request for request in hub.requests if "safetensors" in request]


def test_a_folder_is_taken_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    assert fetch("tiny", tmp_path) == tmp_path / "tiny"


def test_a_model_that_is_nowhere_is_said_so(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such public repository"):
        fetch("acme/none", tmp_path)
    with pytest.raises(ModelNotFound, match=r"there is no folder \./none"):
        fetch("./none", tmp_path)
