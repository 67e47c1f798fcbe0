"""Examples by likeness of meaning after a fine-tune: the index in its artifact, over HTTP and in batches."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_runner.errors import ConfigInvalid, ModelNotFound
from safetensors.torch import load_file, save_file

from tests.support import predictions, runs
from tests.support.embeddings import minilm_path, save_topic_model
from tests.support.hub import run_hub_server
from tests.support.shown_rows import batch_of, prompt_of, serving
from tests.support.smollm2 import smollm2_path

LORA = {"adapter": {"type": "lora", "r": 2}, "generation": {"do_sample": False, "max_new_tokens": 5}}
TRAINER = {"type": "finetune", "batch_size": 4, "train_steps": 1, "learning_rate": 1e-6}
TEMPLATE = "{__context__}\n\nInput:\n{question}\nOutput:\n"
ROWS = (
    ("my cat sleeps", "blonk"), ("it will rain", "zorp"), ("fresh bread", "quav"),
    ("a dog barks", "blonk"), ("so much snow", "zorp"), ("hot soup", "quav"),
)  # fmt: skip
ASKED = {"the kitten plays": "blonk", "only drizzle today": "zorp", "toast for me": "quav"}


def retrieval(model_path: Path, **changes: Any) -> dict[str, Any]:
    written = {"type": "semantic", "k": 2, "model_name": str(model_path), "index_name": "by meaning/1", **changes}
    return {"template": TEMPLATE, "retrieval": written}


def tune(folder: Path, base: Path, prompt: dict[str, Any], rows: Sequence[tuple[str, str]] = ROWS) -> Any:
    run = runs.build_run(folder, base, {**LORA, "trainer": TRAINER, "prompt": prompt}, hold_out=0)
    lines = "".join(f"{question},{answer}\n" for question, answer in rows)
    (folder / "train.csv").write_text(f"question,answer\n{lines}")
    split = {"split": {"type": "random", "probabilities": [1.0, 0.0, 0.0]}}
    run = run.model_copy(update={"config": type(run.config).model_validate(
        {**run.config.model_dump(mode="json", exclude_unset=True), "preprocessing": split}
    )})  # fmt: skip
    runs.run_train(run, folder / "work")
    return run


@pytest.fixture(scope="module")
def run(base: Path, topics: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tune(tmp_path_factory.mktemp("semantic"), base, retrieval(topics))


def served_prompts(run: Any, folder: Path) -> Iterator[str]:
    with serving(run, folder) as server:
        answer = server.post("/v1/predict", {"rows": [{"question": question} for question in ASKED]})
        assert answer.status == 200, answer.text
        yield from (prompt_of(server, {"question": question}) for question in ASKED)


def refusal(run: Any, artifact: Path | str, folder: Path, config: dict[str, Any] | None = None) -> str:
    with pytest.raises((ConfigInvalid, ModelNotFound)) as caught:
        predictions.run_predict(batch_of(run, artifact, folder, ASKED, config), folder / "work")
    return str(caught.value)


@pytest.fixture
def copy(run: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.output_uri, tmp_path / "copy", ignore=shutil.ignore_patterns("SHA256SUMS")))


def test_what_is_asked_over_http_is_shown_the_rows_most_alike(run: Any, tmp_path: Path) -> None:
    for prompt, word in zip(served_prompts(run, tmp_path), ASKED.values(), strict=True):
        assert prompt.count(f"Output:\n{word}\n") == 2


@pytest.mark.proves("prompt.retrieval.index_name")
def test_the_index_is_stored_under_its_name_and_another_name_is_not_found(
    run: Any, topics: Path, tmp_path: Path
) -> None:
    [path] = Path(run.output_uri).glob("examples/*.safetensors")
    assert path.stem == "by meaning%2F1"
    assert load_file(path)["embeddings"].shape == (len(ROWS), 8)
    message = refusal(run, run.output_uri, tmp_path, {"prompt": retrieval(topics, index_name="other")})
    assert "no index 'other'; there is 'by meaning/1'" in message


def test_what_was_pushed_to_a_hub_and_fetched_from_there_asks_as_it_did(
    run: Any, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions.run_predict(batch_of(run, run.output_uri, tmp_path, ASKED), tmp_path / "here")
    here = predictions.read_output(tmp_path / "out.jsonl")
    (tmp_path / "hub").mkdir()
    with run_hub_server(tmp_path / "hub") as hub:
        shutil.copytree(copy, hub.add_repository("acme/shown"), dirs_exist_ok=True)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        batch = batch_of(run, "acme/shown", tmp_path, ASKED)
        batch = batch.model_copy(update={"model_cache_path": str(tmp_path / "cache")})
        predictions.run_predict(batch, tmp_path / "there")
    assert predictions.read_output(tmp_path / "out.jsonl") == here


def test_a_damaged_index_is_named(run: Any, copy: Path, tmp_path: Path) -> None:
    [path] = copy.glob("examples/*.safetensors")
    path.write_bytes(path.read_bytes()[:40])
    assert f"{path} is damaged" in refusal(run, copy, tmp_path)


def test_an_index_of_other_rows_is_named(run: Any, copy: Path, tmp_path: Path) -> None:
    [path] = copy.glob("examples/*.safetensors")
    save_file({"embeddings": torch.ones(3, 8)}, path)
    assert "not one for each of the 6 rows" in refusal(run, copy, tmp_path)


def test_an_index_that_another_model_made_is_refused(run: Any, tmp_path: Path) -> None:
    other = save_topic_model(tmp_path / "other", size=16)
    message = refusal(run, run.output_uri, tmp_path, {"prompt": retrieval(other)})
    assert "prompt.retrieval.model_name" in message
    assert "makes other vectors" in message


def test_a_model_that_is_not_there_is_told_under_its_key(run: Any, tmp_path: Path) -> None:
    message = refusal(run, run.output_uri, tmp_path, {"prompt": retrieval(tmp_path / "nothing")})
    assert message.startswith("prompt.retrieval.model_name: there is no folder")


def test_real_models_answer_as_the_likest_examples_do(tmp_path: Path) -> None:
    """Every example answers with the same made-up word, which no model says unless it was shown it."""
    rows = [(f"Where is {thing}?", "zorblat") for thing in ("the lamp", "my cat", "the moon", "your car")]
    run = tune(tmp_path / "tune", smollm2_path(), retrieval(minilm_path(), k=3), rows)
    predictions.run_predict(batch_of(run, run.output_uri, tmp_path, ASKED), tmp_path / "work")
    found = [row["answer_predictions"].strip() for row in predictions.read_output(tmp_path / "out.jsonl")]
    assert all(answer.startswith("zorblat") for answer in found)
