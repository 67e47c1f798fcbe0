"""What can't be served ends ``llm-runner serve`` with an exit code and words that say what to change."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.report import ExitCode
from llm_api.run import S3Settings
from llm_runner.__main__ import main
from llm_runner.model.load import load_base
from llm_runner.model.silence import peft_silenced
from llm_runner.report.reporter import Reporter
from llm_runner.report.sink import Level, Sink
from llm_runner.serve.load import load_service
from llm_runner.serve.metrics import ServerMetrics
from llm_runner.store.publish import publish_folder
from peft import LoraConfig, TaskType, get_peft_model

from tests.support.predictions import MATCH, MOOD
from tests.support.servers import save_chat_model, serve_run

LORA = LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, target_modules=["q_proj"])


@pytest.fixture(scope="module")
def adapter(chat_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    with peft_silenced():
        get_peft_model(load_base(chat_model_path, dtype=torch.float32), LORA).save_pretrained(str(folder))
    return folder


def serve(tmp_path: Path, capsys: pytest.CaptureFixture[str], base: Path, **changes: Any) -> tuple[int, str]:
    """Exit code and what is said."""
    document = json.loads(serve_run(base, **changes).model_dump_json(by_alias=True, exclude_unset=True))
    (tmp_path / "run.json").write_text(json.dumps(document))
    code = main(["serve", str(tmp_path / "run.json"), "--work-dir", str(tmp_path / "work")])
    return code, capsys.readouterr().err


def test_an_adapter_of_another_base_is_refused(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_chat_model(tmp_path / "other", hidden_size=64)
    code, said = serve(tmp_path, capsys, other, model={"artifactUri": str(adapter)})
    assert code == ExitCode.USER_ERROR
    assert "do not go into this base model" in said


def test_a_base_that_only_looks_alike_is_told_and_left_to_who_chose_it(
    adapter: Path, chat_model_path: Path, tmp_path: Path
) -> None:
    class Warnings(Sink):
        def __init__(self) -> None:
            self.said: list[str] = []

        def message(self, level: Level, text: str) -> None:
            self.said.append(text)

    twin = shutil.copytree(chat_model_path, tmp_path / "twin")
    told = Warnings()
    for base in (chat_model_path, twin):
        run = serve_run(base, model={"artifactUri": str(adapter)})
        load_service(run, ServerMetrics(lambda: None), Reporter([told]), tmp_path).engine.close()
    (warning,) = [text for text in told.said if "was tuned on" in text]
    assert warning.startswith(f"the adapter was tuned on {chat_model_path} and is served on {twin}")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("adapter_model.safetensors", b"torn", "damaged or do not go into this base model"),
        ("adapter_config.json", b"{", "adapter_config.json"),
        ("llm_config.yaml", b"prompt: [", "llm_config.yaml can't be read"),
        ("llm_config.yaml", b"[1, 2]", "holds no LLM config"),
        ("llm_config.yaml", b"generation: {top_k: -1}", "config.generation.top_k"),
    ],
)
def test_a_broken_artifact_is_named_by_the_file_that_is_broken(
    adapter: Path, chat_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    name: str, content: bytes, words: str,
) -> None:  # fmt: skip
    broken = shutil.copytree(adapter, tmp_path / "broken")
    (broken / name).write_bytes(content)
    code, said = serve(tmp_path, capsys, chat_model_path, model={"artifactUri": str(broken)})
    assert code == ExitCode.USER_ERROR
    assert words in said


def test_an_artifact_that_was_changed_since_it_was_stored_is_not_served(
    adapter: Path, chat_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = publish_folder(shutil.copytree(adapter, tmp_path / "new"), str(tmp_path / "store"), S3Settings())
    (tmp_path / "store" / "adapter_config.json").write_bytes(b"{}")
    model = {"artifactUri": stored.uri, "artifactDigest": stored.digest}
    code, said = serve(tmp_path, capsys, chat_model_path, model=model)
    assert code == ExitCode.STORAGE_FAILED, "it may be whole again when it is tried again"
    assert "adapter_config.json" in said


def test_an_expression_that_does_not_compile_is_refused_by_its_path(
    chat_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    match = {**MATCH, "positive": {"type": "regex", "value": "(good"}}
    document = json.loads(serve_run(chat_model_path).model_dump_json(by_alias=True, exclude_unset=True))
    document["config"]["output_features"] = [{**MOOD, "decoder": {"match": match}}]
    (tmp_path / "run.json").write_text(json.dumps(document))
    assert main(["serve", str(tmp_path / "run.json")]) == ExitCode.USER_ERROR
    said = capsys.readouterr().err
    assert "match.positive" in said
    assert "is not a regular expression that compiles" in said
