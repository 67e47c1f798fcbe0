"""The examples of ``examples/page`` come to a good end with the real small model, on a few rows and for two steps.

Rows and volumes, the number of steps, and the length of an answer that has no limit are the test's; all else is as the
files say.
"""

import csv
import math
from pathlib import Path

import pytest
from llm_api.config.generation import Generation
from llm_api.run import PredictRun, TrainRun
from llm_runner.local.batch import predict_shards
from llm_runner.local.options import LocalOptions
from llm_runner.local.run import AnyLocalRun, load_local_run
from llm_runner.report.reporter import Reporter
from llm_runner.store.digest import check_sums

from tests.support.repository import ROOT
from tests.support.runs import read_metrics, run_train
from tests.support.smollm2 import smollm2_path

EXAMPLES = sorted((ROOT / "examples" / "page").glob("*.yaml"))
STEPS = 2
ROWS = 6
MOST_NEW_TOKENS = 8
VOCABULARY = 49152
"""A model of SmolLM2's that knows nothing has a loss of its logarithm."""
LABELS = ("negative", "neutral", "positive")
MODEL_PATHS = ("HuggingFaceTB/SmolLM2-135M-Instruct", "path/to/local/model/weights")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one table that has every column which an example names, and the model where they look for it."""
    folder = tmp_path_factory.mktemp("page")
    for name in MODEL_PATHS:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).symlink_to(smollm2_path())
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [build_row(number) for number in range(ROWS)]
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def build_row(number: int) -> dict[str, str]:
    question = f"How many lamps are in room {number}?"
    return {
        "input": question,
        "question": question,
        "user_message_1": question,
        "english_input": question,
        "context": f"Room {number} has {number + 1} lamps.",
        "response": f"There are {number + 1}.",
        "label": LABELS[number % len(LABELS)],
    }


def load_example(path: Path, machine: Path, folder: Path) -> AnyLocalRun:
    """As ``llm-runner run -f`` reads it."""
    volumes = {"rows": machine, "models": machine, "artifacts": folder}
    work_path = folder / "work"
    work_path.mkdir()
    return load_local_run(path, LocalOptions(volumes=volumes), work_path).run


def shorten(run: TrainRun) -> TrainRun:
    """The same, ending after some steps."""
    trainer = run.config.trainer
    assert trainer is not None
    shorter = trainer.model_copy(update={"train_steps": STEPS})
    return run.model_copy(update={"config": run.config.model_copy(update={"trainer": shorter})})


def limit_answers(run: PredictRun) -> PredictRun:
    """The same, with answers that end even where only the model's context would end them."""
    generation = run.config.generation
    if generation is None:
        generation = Generation()
    if "max_new_tokens" in generation.model_fields_set:
        return run
    shorter = generation.model_copy(update={"max_new_tokens": MOST_NEW_TOKENS})
    return run.model_copy(update={"config": run.config.model_copy(update={"generation": shorter})})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_comes_to_a_good_end(
    path: Path, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(machine)
    match load_example(path, machine, tmp_path):
        case TrainRun() as run:
            check_trained(shorten(run), tmp_path / "work")
        case PredictRun() as run:
            check_answered(run, tmp_path / "work")
        case other:
            pytest.fail(f"{path} is a {other.kind}")


def check_trained(run: TrainRun, work_path: Path) -> None:
    outcome = run_train(run, work_path)
    assert (outcome.reason, outcome.last_step) == ("Succeeded", STEPS)
    artifact = Path(run.output_uri)
    check_sums(artifact)
    metrics = read_metrics(artifact)
    assert metrics["rows_read"] == ROWS
    assert 0 < metrics["train"]["loss"] < math.log(VOCABULARY)
    assert (artifact / "adapter_config.json").is_file() == (run.config.adapter is not None)


def check_answered(run: PredictRun, work_path: Path) -> None:
    outcome = predict_shards(limit_answers(run), reporter=Reporter([]), work_path=work_path)
    assert outcome.reason == "Succeeded"
    with Path(run.output_uri).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    (output,) = run.config.output_features or ()
    assert [row["input"] for row in rows] == [build_row(number)["input"] for number in range(ROWS)]
    assert [row[f"{output.name}_error"] for row in rows] == [""] * ROWS
    answers = {row[f"{output.name}_predictions"] for row in rows}
    assert answers != {""}
    if output.type == "category":
        assert answers <= set(LABELS)
