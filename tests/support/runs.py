"""Fine-tunes of a tiny model that take a second or two: their data, their run files, and what they leave."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llm_api.report import Outcome
from llm_api.run import S3Settings, TrainRun
from llm_runner.report.reporter import Reporter
from llm_runner.report.sink import Level, Sink
from llm_runner.train.run import train
from llm_runner.train.sample import Ask

WORDS = ("kettle", "lamp", "vacuum", "speaker", "thermostat", "doorbell", "purifier")


class Messages(Sink):
    """Keeps what a run says in words."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, level: Level, text: str) -> None:
        self.texts.append(f"{level}: {text}")


def write_rows(path: Path, count: int, start: int = 0) -> Path:
    """A table of questions and answers with a pattern in it."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer"])
        for number in range(start, start + count):
            word = WORDS[number % len(WORDS)]
            writer.writerow([f"Where is {word} {number}?", f"The {word} is in room {number % 5}."])
    return path


def build_run(
    folder: Path,
    model_path: Path,
    config: Mapping[str, Any],
    *,
    rows: int = 24,
    hold_out: int = 6,
    checkpoint_uri: str | None = None,
    s3: S3Settings | None = None,
    **fields: Any,
) -> TrainRun:
    """A run of float32 with its data and output in ``folder``; the same ``folder`` goes on where it was stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = {
        "train": {"uri": str(write_rows(folder / "train.csv", rows))},
        "validation": {"uri": str(write_rows(folder / "validation.csv", hold_out, start=1000))},
    }
    checkpoints = {"uri": str(folder / "out" / "checkpoints") if checkpoint_uri is None else checkpoint_uri}
    return TrainRun.model_validate(
        {
            "name": "tiny",
            "config": {
                "base_model": str(model_path),
                "input_features": [{"name": "question", "type": "text"}],
                "output_features": [{"name": "answer", "type": "text"}],
                **config,
            },
            "dataset": dataset if hold_out > 0 else {"train": dataset["train"]},
            "outputUri": str(folder / "out"),
            "checkpoint": checkpoints,
            "s3": {} if s3 is None else s3.model_dump(by_alias=True),
            "dtype": "float32",
            **fields,
        }
    )


def save_run(run: TrainRun, path: Path) -> Path:
    """The run file that a runner is handed."""
    path.write_text(run.model_dump_json(by_alias=True, exclude_unset=True))
    return path


def run_train(
    run: TrainRun,
    work_path: Path,
    messages: Messages | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    ask: Ask | None = None,
) -> Outcome:
    """Without ``ask`` nothing is asked, which would take most of the time."""
    reporter = Reporter([] if messages is None else [messages])
    return train(run, reporter=reporter, work_path=work_path, should_stop=should_stop, ask=ask)


def stop_after(asked: int) -> Callable[[], bool]:
    """True from the call after ``asked`` calls on; the loop asks before each step, and in evaluations."""
    remaining = iter(range(asked))
    return lambda: next(remaining, None) is None


def read_curve(folder: Path) -> list[tuple[str, ...]]:
    """The loss curve in full precision, without the speeds."""
    with (folder / "loss_curve.csv").open(newline="") as file:
        return [tuple(row[name] for name in row if name != "tokens_per_second") for row in csv.DictReader(file)]


def read_metrics(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return metrics
