"""Folders of tiny models, made once, and texts that are enough to learn something from."""

from pathlib import Path

import pytest
import torch

from tests.support.models import gpt2_config, llama_config, neox_config, save_model


@pytest.fixture(scope="session")
def llama_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), llama_config())


@pytest.fixture(scope="session")
def gpt2_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("gpt2"), gpt2_config())


@pytest.fixture(scope="session")
def neox_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("neox"), neox_config())


@pytest.fixture
def token_ids() -> torch.Tensor:
    """[2, 40]"""
    return torch.randint(2, 250, (2, 40), generator=torch.Generator().manual_seed(1))
