"""Batches over a tiny model: their data, their run files, and what they leave."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]
from llm_api.report import Outcome
from llm_api.run import PredictRun, S3Settings
from llm_runner.predict.run import predict
from llm_runner.report.reporter import Reporter

from tests.support.runs import Messages

TEXT = {
    "input_features": [{"name": "prompt", "type": "text"}],
    "output_features": [{"name": "answer", "type": "text"}],
    "prompt": {"template": "Q: {question}\nA:"},
    "generation": {"do_sample": False, "max_new_tokens": 6},
}
MATCH = {
    "negative": {"type": "contains", "value": "bad"},
    "neutral": {"type": "contains", "value": "so"},
    "positive": {"type": "contains", "value": "good"},
}
MOOD = {
    "name": "mood",
    "type": "category",
    "preprocessing": {"fallback_label": "neutral"},
    "decoder": {"match": MATCH, "constrain_to_vocabulary": True},
}
CATEGORY = {**TEXT, "output_features": [MOOD]}


def build_rows(count: int, **columns: Any) -> list[dict[str, Any]]:
    return [{"id": number, "question": f"Where is lamp {number}?", **columns} for number in range(count)]


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def build_run(
    base: Path,
    data: Path | str,
    output: Path | str,
    config: Mapping[str, Any] = TEXT,
    *,
    s3: S3Settings | None = None,
    **fields: Any,
) -> PredictRun:
    document = {
        "name": "batch",
        "config": {"base_model": str(base), **config},
        "model": {},
        "dataset": {"uri": str(data)},
        "outputUri": str(output),
        "s3": {} if s3 is None else s3.model_dump(by_alias=True),
        **fields,
    }
    return PredictRun.model_validate(document)


def save_run(run: PredictRun, path: Path) -> Path:
    path.write_text(run.model_dump_json(by_alias=True, exclude_unset=True))
    return path


def run_predict(run: PredictRun, work_path: Path, messages: Messages | None = None, **options: Any) -> Outcome:
    work_path.mkdir(parents=True, exist_ok=True)
    return predict(run, reporter=Reporter([] if messages is None else [messages]), work_path=work_path, **options)


def read_output(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file)) if path.suffix == ".csv" else [json.loads(line) for line in file]


def read_report(output: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(output.with_name(f"{output.name}.report.json").read_text("utf-8"))
    return report
