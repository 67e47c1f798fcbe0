"""Several adapters in one server, told apart by what a request calls its model; PEFT by itself says what is right."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
import yaml
from llm_api.run import S3Settings, ServeRun
from llm_runner.errors import ConfigInvalid, ModelNotFound, StorageFailed
from llm_runner.generate import engine_forward
from llm_runner.model.load import load_base
from llm_runner.model.silence import peft_silenced
from llm_runner.report.reporter import Reporter
from llm_runner.serve.adapters import to_adapter_runs
from llm_runner.serve.follow import ArtifactFollower
from llm_runner.serve.load import load_service
from llm_runner.serve.metrics import ServerMetrics
from llm_runner.store.publish import publish_folder
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.servers import RunningServer, running_server, save_chat_model, serve_run

TOKENS = 24
PROMPTS = ["Once upon a time", "what comes after 3?", "a", "the quick brown fox jumps over"]
TASK = {
    "input_features": [{"name": "prompt", "type": "text"}],
    "output_features": [{"name": "answer", "type": "text"}],
    "prompt": {"template": "Q: {question}\nA:"},
}
SCALE = 0.3
"""Of random weights: enough to change what is said, little enough that it doesn't drown in rounding."""


@pytest.fixture(autouse=True, scope="module")
def in_float32() -> Iterator[None]:
    """The machine's own number type would be bfloat16, in which batches differ by rounding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm_runner.predict.load.choose_dtype", lambda *_: torch.float32)
        yield


def save_adapter(folder: Path, base: Path, seed: int, rank: int, targets: list[str]) -> Path:
    lora = LoraConfig(task_type=TaskType.CAUSAL_LM, r=rank, lora_alpha=16, target_modules=targets)
    with peft_silenced():
        adapted = get_peft_model(load_base(base, dtype=torch.float32), lora)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * SCALE)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def publish(folder: Path, uri: Path, base: Path, **config: Any) -> dict[str, str]:
    """As a fine-tune does."""
    (folder / "llm_config.yaml").write_text(yaml.safe_dump({"base_model": str(base), **config}))
    published = publish_folder(folder, str(uri), S3Settings())
    return {"artifactUri": published.uri, "artifactDigest": published.digest}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("base") / "model", initializer_range=0.2)


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By the name that is asked for; unlike in rank and in the layers that they change."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "tiny": save_adapter(folder / "tiny", base, 1, 4, ["q_proj", "v_proj"]),
        "second": save_adapter(folder / "second", base, 2, 8, ["q_proj", "o_proj", "down_proj"]),
        "third": save_adapter(folder / "third", base, 3, 2, ["gate_proj", "v_proj"]),
    }


@pytest.fixture(scope="module")
def run(folders: dict[str, Path], base: Path, tmp_path_factory: pytest.TempPathFactory) -> ServeRun:
    """ "second" has the server's own task, "third" another one."""
    store = tmp_path_factory.mktemp("store")
    others = [
        {"name": "second", **publish(folders["second"], store / "second", base, **TASK)},
        {"name": "third", **publish(folders["third"], store / "third", base, generation={"max_new_tokens": 3})},
    ]
    model = publish(folders["tiny"], store / "tiny", base, **TASK)
    run = serve_run(base, model=model, adapters=others)
    return run.model_copy(update={"config": type(run.config).model_validate({})})


@pytest.fixture(scope="module")
def several(run: ServeRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(run, tmp_path_factory.mktemp("work")) as server:
        yield server


def answer_alone(base: Path, adapter: Path | None, prompt: str) -> str:
    """By transformers and PEFT, one prompt and one adapter at a time."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        with peft_silenced():
            model = PeftModel.from_pretrained(model, str(adapter))
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=TOKENS,
        min_new_tokens=TOKENS, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return without_broken_end(str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)))


def without_broken_end(text: str) -> str:
    """Bytes at the end that are no character yet are held back by the server, and told by the tokenizer."""
    return text.rstrip("\ufffd")


def ask(server: RunningServer, model: str, prompt: str, **options: Any) -> str:
    body = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": TOKENS, "min_new_tokens": TOKENS}
    return without_broken_end(server.post("/v1/completions", {**body, **options}).body["choices"][0]["text"])


def test_requests_for_different_adapters_share_steps_and_each_is_answered_as_by_its_adapter_alone(
    several: RunningServer, folders: dict[str, Path], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[int] = []
    build: Any = vars(engine_forward)["build_batch"]

    def build_and_note(pieces: Any, *rest: Any, **options: Any) -> Any:
        shared.append(len({piece.adapter for piece in pieces}))
        return build(pieces, *rest, **options)

    monkeypatch.setattr(engine_forward, "build_batch", build_and_note)
    asked = [(name, prompt) for prompt in PROMPTS for name in (*folders, str(base))]
    with ThreadPoolExecutor(len(asked)) as threads:
        told = list(threads.map(lambda one: ask(several, *one), asked))
    assert told == [answer_alone(base, folders.get(name), prompt) for name, prompt in asked]
    assert max(shared) == len(folders) + 1
    for prompt in PROMPTS:
        assert len({text for (_, other), text in zip(asked, told, strict=True) if other == prompt}) == 4


def test_all_of_them_are_listed_and_an_unknown_one_is_told_which_there_are(several: RunningServer, base: Path) -> None:
    names = [model.id for model in several.client().models.list()]
    assert names == ["tiny", str(base), "second", "third"]
    with pytest.raises(openai.NotFoundError, match=r"no model 'fourth' here; there are: tiny, .*, second, third"):
        several.client().completions.create(model="fourth", prompt="a")


def test_each_answers_by_the_generation_that_it_was_stored_with(several: RunningServer) -> None:
    completion = several.client().completions.create(model="third", prompt="a", extra_body={"min_new_tokens": 3})
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 3
    longer = several.client().completions.create(model="second", prompt="a", extra_body={"min_new_tokens": 9})
    assert longer.usage is not None
    assert longer.usage.completion_tokens >= 9


def test_rows_are_answered_by_adapters_of_the_servers_task_and_by_no_others(several: RunningServer) -> None:
    rows = [{"question": "what comes after 3?"}]
    texts = {}
    for name in ("tiny", "second"):
        answer = several.post("/v1/predict", {"model": name, "rows": rows, "generation": {"do_sample": False}})
        texts[name] = answer.body["predictions"][0]["value"]
    assert texts["tiny"] != texts["second"]
    refused = several.post("/v1/predict", {"model": "third", "rows": rows})
    assert refused.status == 404
    assert "third was tuned by a config of its own" in refused.error["message"]


def test_a_newly_stored_adapter_takes_its_own_place_and_no_others(
    run: ServeRun, folders: dict[str, Path], base: Path, tmp_path: Path
) -> None:
    uri = tmp_path / "store"
    publish(shutil.copytree(folders["second"], tmp_path / "old"), uri, base, **TASK)
    followed = ServeRun.model_validate(
        {**run.model_dump(by_alias=True, exclude_unset=True), "adapters": [{"name": "second", "artifactUri": str(uri)}]}
    )
    (one,) = to_adapter_runs(followed)
    follower = ArtifactFollower(one, Reporter([]), tmp_path)
    with running_server(followed, tmp_path / "work") as server:
        before = {name: ask(server, name, PROMPTS[0]) for name in ("tiny", "second")}
        assert not follower.look(server.service)
        publish(shutil.copytree(folders["third"], tmp_path / "new"), uri, base, **TASK)
        assert follower.look(server.service)
        assert ask(server, "second", PROMPTS[0]) == answer_alone(base, folders["third"], PROMPTS[0])
        assert ask(server, "tiny", PROMPTS[0]) == before["tiny"]
        assert before["second"] == answer_alone(base, folders["second"], PROMPTS[0])
        publish(shutil.copytree(folders["third"], tmp_path / "other"), uri, base, generation={"max_new_tokens": 2})
        assert not follower.look(server.service)


def test_they_are_served_on_a_quantized_base_too(run: ServeRun, base: Path, tmp_path: Path) -> None:
    config = type(run.config).model_validate({"quantization": {"bits": 4}})
    with running_server(run.model_copy(update={"config": config}), tmp_path) as server:
        assert server.service.model.is_quantized
        assert len({ask(server, name, PROMPTS[0]) for name in ("tiny", "second", "third", str(base))}) == 4


def refuse(run: ServeRun, adapter: dict[str, str], work_path: Path) -> None:
    bad = ServeRun.model_validate(
        {**run.model_dump(by_alias=True, exclude_unset=True), "adapters": [{"name": "bad", **adapter}]}
    )
    load_service(bad, ServerMetrics(lambda: None), Reporter([]), work_path)


def test_an_adapter_of_another_base_is_refused_by_name(run: ServeRun, tmp_path: Path) -> None:
    other = save_chat_model(tmp_path / "other", num_hidden_layers=1)
    folder = save_adapter(tmp_path / "adapter", other, 1, 4, ["q_proj"])
    with pytest.raises(ConfigInvalid, match=r"'bad' can't be served on .*: its base is .*other; serve it by itself"):
        refuse(run, publish(folder, tmp_path / "store", other), tmp_path)


def test_a_whole_model_is_no_adapter(run: ServeRun, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="it is a whole model"):
        refuse(run, {"artifactUri": str(base)}, tmp_path)


def test_a_broken_adapter_is_refused(run: ServeRun, folders: dict[str, Path], base: Path, tmp_path: Path) -> None:
    torn = shutil.copytree(folders["second"], tmp_path / "torn")
    (torn / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelNotFound, match="damaged or do not go into this base model"):
        refuse(run, {"artifactUri": str(torn)}, tmp_path)
    stored = publish(shutil.copytree(folders["second"], tmp_path / "whole"), tmp_path / "store", base)
    (tmp_path / "store" / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(StorageFailed, match=r"adapter_model\.safetensors"):
        refuse(run, stored, tmp_path)
