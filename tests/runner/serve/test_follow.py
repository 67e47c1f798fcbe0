"""A newly stored adapter is served without a restart; what can't be taken over leaves the old one, and is said."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from llm_api.run import S3Settings, ServeRun
from llm_runner.model.load import load_base
from llm_runner.model.silence import peft_silenced
from llm_runner.report.reporter import Reporter
from llm_runner.report.sink import Level, Sink
from llm_runner.serve.follow import ArtifactFollower
from llm_runner.store.publish import publish_folder
from peft import LoraConfig, TaskType, get_peft_model

from tests.support.servers import RunningServer, running_server, save_chat_model, serve_run


class Words(Sink):
    """Notes what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, level: Level, text: str) -> None:
        self.said.append(text)


@dataclass
class Followed:
    server: RunningServer
    follower: ArtifactFollower
    words: Words
    run: ServeRun
    base: Path
    work_path: Path

    def store(self, seed: int, **config: Any) -> None:
        """Another adapter at the address that is served."""
        folder = save_adapter(self.work_path / f"adapter-{seed}", self.base, seed, **config)
        assert self.run.model.artifact_uri is not None
        publish_folder(folder, self.run.model.artifact_uri, S3Settings())

    def look(self) -> bool:
        return self.follower.look(self.server.service)

    def text(self) -> str:
        body = {"model": "tiny", "prompt": "Once upon", "max_tokens": 16, "temperature": 0}
        return str(self.server.post("/v1/completions", body).body["choices"][0]["text"])


def save_adapter(folder: Path, base: Path, seed: int, **config: Any) -> Path:
    """Random, and strong enough to change what is said; with the config of a run."""
    lora = LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=32, target_modules=["q_proj", "v_proj", "o_proj"])
    torch.manual_seed(seed)
    with peft_silenced():
        adapted = get_peft_model(load_base(base, dtype=torch.float32), lora)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) / 2)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    document = {"base_model": str(base), "generation": {"max_new_tokens": 16}, **config}
    (folder / "llm_config.yaml").write_text(yaml.safe_dump(document))
    return folder


@pytest.fixture
def followed(chat_model_path: Path, tmp_path: Path) -> Iterator[Followed]:
    uri = str(tmp_path / "store")
    publish_folder(save_adapter(tmp_path / "adapter-0", chat_model_path, 0), uri, S3Settings())
    run = serve_run(chat_model_path, model={"artifactUri": uri})
    run = run.model_copy(update={"config": type(run.config).model_validate({})})
    words = Words()
    follower = ArtifactFollower(run, Reporter([words]), tmp_path)
    with running_server(run, tmp_path / "work") as server:
        yield Followed(server, follower, words, run, chat_model_path, tmp_path)


def test_a_newly_stored_adapter_answers_without_a_restart(followed: Followed) -> None:
    before = followed.text()
    assert not followed.look()
    followed.store(1)
    assert followed.look()
    after = followed.text()
    assert after != before
    assert not followed.look()
    followed.store(0)
    assert followed.look()
    assert followed.text() == before


def test_an_adapter_of_another_config_waits_for_a_restart(followed: Followed) -> None:
    before = followed.text()
    followed.store(1, generation={"max_new_tokens": 3})
    assert not followed.look()
    assert "its config is another one; start the server anew" in followed.words.said[-1]
    assert followed.text() == before


def test_an_adapter_of_another_base_waits_for_a_restart(followed: Followed, tmp_path: Path) -> None:
    before = followed.text()
    other = save_chat_model(tmp_path / "other", num_hidden_layers=1)
    followed.base = other
    followed.store(1)
    assert not followed.look()
    assert f"its base is {other}" in followed.words.said[-1]
    assert followed.text() == before


def test_a_torn_artifact_leaves_the_old_one_and_is_said_once(followed: Followed) -> None:
    before = followed.text()
    followed.store(1)
    store = Path(str(followed.run.model.artifact_uri))
    (store / "adapter_model.safetensors").write_bytes(b"torn")
    assert not followed.look()
    assert "the one before it stays served" in followed.words.said[-1]
    told = len(followed.words.said)
    assert not followed.look()
    assert len(followed.words.said) == told
    shutil.rmtree(store)
    assert not followed.look()
    assert followed.text() == before


def test_a_run_with_a_digest_is_not_followed(followed: Followed) -> None:
    model = followed.run.model.model_copy(update={"artifact_digest": "sha256:0"})
    run = followed.run.model_copy(update={"model": model})
    follower = ArtifactFollower(run, Reporter([]), followed.work_path)
    followed.store(1)
    assert not follower.look(followed.server.service)
