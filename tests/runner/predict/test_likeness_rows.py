"""Examples by likeness of meaning are the same in training, over HTTP and in batches; the model of likeness is set by
hand, so that which rows are alike is known.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llm_runner.errors import ModelNotFound

from tests.support import predictions, runs
from tests.support.embeddings import TOPICS
from tests.support.servers import RunningServer
from tests.support.shown_rows import batch_of, serving, training_prompts

LORA = {"adapter": {"type": "lora", "r": 2}, "generation": {"do_sample": False, "max_new_tokens": 6}}
TRAINER = {"type": "finetune", "batch_size": 8, "train_steps": 1, "learning_rate": 1e-6}
NAMES = ("animals", "weather", "food")
ROWS = [
    (f"{words[number]} {number}", topic) for topic, words in zip(NAMES, TOPICS, strict=True) for number in (0, 2, 3)
]
NEW = {f"a {words[1]} !": topic for topic, words in zip(NAMES, TOPICS, strict=True)}
"""Questions of words that no training row has, and what they are about."""


def prompt_with(model: Path) -> dict[str, Any]:
    retrieval = {"type": "semantic", "k": 2, "model_name": str(model)}
    return {"template": "{__context__}\n\n{question}", "retrieval": retrieval}


@pytest.fixture(scope="module")
def run(base: Path, topics: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A fine-tune that has ended."""
    folder = tmp_path_factory.mktemp("likeness")
    run = runs.build_run(folder, base, {**LORA, "trainer": TRAINER, "prompt": prompt_with(topics)})
    for name, rows in (("train", ROWS), ("validation", NEW.items())):
        lines = "".join(f"{question},{answer}\n" for question, answer in rows)
        (folder / f"{name}.csv").write_text(f"question,answer\n{lines}")
    runs.run_train(run, folder / "work")
    return run


@pytest.fixture(scope="module")
def server(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(run, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.mark.proves("prompt.retrieval.type", "prompt.retrieval.model_name")
def test_training_prompts_show_rows_of_like_meaning_and_never_the_row_itself(run: Any, tmp_path: Path) -> None:
    for part, expected in (("train", [topic for _, topic in ROWS]), ("validation", list(NEW.values()))):
        prompts = training_prompts(run, tmp_path, part)
        for prompt, topic in zip(prompts, expected, strict=True):
            *shown, question = prompt.removeprefix("<s>").split("\n\n")
            assert [block.rpartition("Output:\n")[2] for block in shown] == [topic, topic]
            assert prompt.count(question) == 1


def test_a_batch_with_the_trainer_none_answers_as_the_server_does(
    server: RunningServer, run: Any, tmp_path: Path
) -> None:
    predictions.run_predict(
        batch_of(run, run.output_uri, tmp_path, NEW, {"trainer": {"type": "none"}}), tmp_path / "work"
    )
    found = [row["answer_predictions"] for row in predictions.read_output(tmp_path / "out.jsonl")]
    answer = server.post("/v1/predict", {"rows": [{"question": question} for question in NEW]})
    assert found == [row["value"] for row in answer.body["predictions"]]


def test_an_embedding_model_that_is_pickled_is_named(run: Any, topics: Path, tmp_path: Path) -> None:
    pickled = Path(shutil.copytree(topics, tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    batch = batch_of(run, run.output_uri, tmp_path, NEW, {"prompt": prompt_with(pickled)})
    with pytest.raises(ModelNotFound, match=r"^prompt\.retrieval\.model_name: .* is pickled"):
        predictions.run_predict(batch, tmp_path / "work")
