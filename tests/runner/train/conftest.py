"""Folders of tiny models, made once for all tests of training, and a thread for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.models import llama_config, save_model


@pytest.fixture(scope="session")
def llama_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny") / "llama", llama_config())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small is done before a second thread has begun; and sums are the same in every process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
