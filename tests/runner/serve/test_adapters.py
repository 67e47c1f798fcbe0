"""Artifacts and adapters over HTTP: a run's name is its tuned model, others come and go while they are asked."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
import yaml
from llm_api.run import S3Settings, ServeRun
from llm_runner.errors import ConfigInvalid, StorageFailed
from llm_runner.model.load import load_base
from llm_runner.model.silence import peft_silenced
from llm_runner.predict.source import fetch_source
from llm_runner.report.reporter import Reporter
from llm_runner.serve.load import load_service
from llm_runner.serve.metrics import ServerMetrics
from llm_runner.store.publish import publish_folder
from peft import LoraConfig, TaskType, get_peft_model

from tests.support.servers import RunningServer, running_server, serve_run

PROMPT = "Once upon a time"


def save_adapter(folder: Path, base: Path, seed: int) -> Path:
    """Random, and strong enough to change what is said."""
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=32, target_modules=["q_proj", "v_proj", "o_proj"])
    with peft_silenced():
        adapted = get_peft_model(load_base(base, dtype=torch.float32), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) / 2)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def adapters(chat_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [save_adapter(folder / str(seed), chat_model_path, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def artifact(adapters: list[Path], chat_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Where a fine-tune stored its adapter with its config, and the digest."""
    config = {"base_model": str(chat_model_path), "generation": {"do_sample": False, "max_new_tokens": 5}}
    (adapters[0] / "llm_config.yaml").write_text(yaml.safe_dump(config))
    published = publish_folder(adapters[0], str(tmp_path_factory.mktemp("store") / "artifact"), S3Settings())
    return published.uri, published.digest


def tuned_run(artifact: tuple[str, str], base: Path, **config: Any) -> ServeRun:
    model = {"artifactUri": artifact[0], "artifactDigest": artifact[1]}
    run = serve_run(base, model=model)
    return run.model_copy(update={"config": type(run.config).model_validate(config)})


@pytest.fixture(scope="module")
def tuned(
    artifact: tuple[str, str], chat_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    run = tuned_run(artifact, chat_model_path, generation={"max_new_tokens": 9})
    with running_server(run, tmp_path_factory.mktemp("tuned")) as running:
        yield running


def text_of(server: RunningServer, model: str, **options: Any) -> str:
    return server.client().completions.create(model=model, prompt=PROMPT, **options).choices[0].text


def test_the_runs_name_is_the_tuned_model_and_the_base_can_be_asked_beside_it(
    tuned: RunningServer, server: RunningServer, chat_model_path: Path
) -> None:
    names = [model.id for model in tuned.client().models.list()]
    assert names == ["tiny", str(chat_model_path)]
    assert text_of(tuned, str(chat_model_path), max_tokens=16) == text_of(server, "tiny", max_tokens=16)
    assert text_of(tuned, "tiny", max_tokens=16) != text_of(server, "tiny", max_tokens=16)


def test_the_artifacts_config_counts_but_for_what_the_run_writes(tuned: RunningServer) -> None:
    completion = tuned.client().completions.create(model="tiny", prompt=PROMPT, extra_body={"min_new_tokens": 9})
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 9
    assert text_of(tuned, "tiny") == text_of(tuned, "tiny")


def test_a_request_names_its_adapter_among_several_in_one_server(
    tuned: RunningServer, adapters: list[Path], chat_model_path: Path
) -> None:
    for number, folder in enumerate(adapters[1:], start=1):
        tuned.service.models.add_adapter(f"tuned-{number}", folder)
    names = ["tiny", "tuned-1", "tuned-2", str(chat_model_path)]
    alone = [text_of(tuned, name, max_tokens=16) for name in names]
    assert len(set(alone)) == 4
    prompts: Any = [PROMPT] * 4
    for name, text in zip(names, alone, strict=True):
        together = tuned.client().completions.create(model=name, prompt=prompts, max_tokens=16)
        assert {choice.text for choice in together.choices} == {text}


def test_a_search_uses_the_adapter_that_is_asked_for(tuned: RunningServer, chat_model_path: Path) -> None:
    options: Any = {"max_tokens": 12, "extra_body": {"num_beams": 2}}
    assert text_of(tuned, "tiny", **options) != text_of(tuned, str(chat_model_path), **options)


def test_an_adapter_is_replaced_while_it_is_asked_and_every_answer_is_one_of_the_two(
    tuned: RunningServer, adapters: list[Path]
) -> None:
    tuned.service.models.add_adapter("moving", adapters[1])
    stream = tuned.client().completions.create(
        model="moving", prompt=PROMPT, max_tokens=100, stream=True, extra_body={"min_new_tokens": 100}
    )
    chunks = iter(stream)
    before = next(chunks).choices[0].text
    tuned.service.models.add_adapter("moving", adapters[2])
    after = text_of(tuned, "moving", max_tokens=16)
    old = before + "".join(chunk.choices[0].text for chunk in chunks)
    tuned.service.models.add_adapter("fixed", adapters[1])
    assert old == text_of(tuned, "fixed", max_tokens=100, extra_body={"min_new_tokens": 100})
    assert after == text_of(tuned, "tuned-2", max_tokens=16)


def test_what_is_taken_away_is_not_found_any_more(tuned: RunningServer, adapters: list[Path]) -> None:
    tuned.service.models.add_adapter("gone", adapters[1])
    tuned.service.models.remove_adapter("gone")
    with pytest.raises(openai.NotFoundError):
        text_of(tuned, "gone")


def test_an_artifact_with_another_digest_is_not_served(
    artifact: tuple[str, str], chat_model_path: Path, tmp_path: Path
) -> None:
    wrong = f"sha256:{hashlib.sha256(b'').hexdigest()}"
    with pytest.raises(StorageFailed, match="was to be served"):
        fetch_source(tuned_run((artifact[0], wrong), chat_model_path), tmp_path)


def test_a_whole_model_is_served_by_the_runs_name_alone(chat_model_path: Path, tmp_path: Path) -> None:
    run = serve_run(chat_model_path, model={"artifactUri": str(chat_model_path)})
    source = fetch_source(run, tmp_path)
    assert (source.base_path, source.adapter_path) == (chat_model_path, None)


def test_an_adapter_that_the_config_names_is_served_on_its_base(adapters: list[Path], chat_model_path: Path) -> None:
    adapter = {"type": "lora", "pretrained_adapter_weights": str(adapters[1])}
    source = fetch_source(serve_run(chat_model_path, {"adapter": adapter}), Path())
    assert (source.base_path, source.adapter_path) == (chat_model_path, adapters[1])


def test_an_adapter_on_a_quantized_base_answers_unmerged(
    artifact: tuple[str, str], chat_model_path: Path, tmp_path: Path
) -> None:
    run = tuned_run(artifact, chat_model_path, quantization={"bits": 4})
    with running_server(run, tmp_path) as running:
        assert running.service.model.is_quantized
        assert text_of(running, "tiny", max_tokens=16) != text_of(running, str(chat_model_path), max_tokens=16)


def test_generation_that_names_unknown_tokens_is_refused_before_anything_is_served(
    chat_model_path: Path, tmp_path: Path
) -> None:
    run = serve_run(chat_model_path, {"generation": {"suppress_tokens": [99_999]}})
    with pytest.raises(ConfigInvalid, match="suppress_tokens: 99999"):
        load_service(run, ServerMetrics(lambda: None), Reporter([]), tmp_path)
