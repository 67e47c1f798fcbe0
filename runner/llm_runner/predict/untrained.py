"""A fine-tune that trains nothing, as ``trainer: {type: none}`` asks for: a prompt, and the rows that it shows.

The model answers the hold-out as it is, which says how good the prompt is. What is stored is what later runs need to
ask in the same way: the config, the rows that prompts show, and the report. It holds no weights.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_api.report import Outcome
from llm_api.run import DataLocation, ModelLocation, PredictRun, TrainRun

from llm_runner.data.missing import GapCounts
from llm_runner.data.prepare import digest_files
from llm_runner.data.prepared import DataCounts
from llm_runner.data.prompt import build_prompt
from llm_runner.data.read import Row
from llm_runner.data.shown import ShownRows, build_shown_rows
from llm_runner.data.source import Source, open_source
from llm_runner.data.split import TEST, TRAIN, UNUSED, VALIDATION
from llm_runner.predict.parts import REPORT_SUFFIX
from llm_runner.predict.run import predict
from llm_runner.predict.table import prediction_fields, write_jsonl
from llm_runner.report.artifact import save_untrained_report
from llm_runner.report.card import CardExample
from llm_runner.report.memory import peak_memory_bytes
from llm_runner.report.metrics_file import UntrainedMetrics
from llm_runner.report.reporter import Reporter
from llm_runner.store.digest import write_sums
from llm_runner.store.fetch import fetch_file
from llm_runner.store.hub import read_token
from llm_runner.store.publish import check_writable, delete_folder, publish_folder
from llm_runner.train.artifact import CARD_EXAMPLES, describe_untrained, save_prompting
from llm_runner.train.inputs import fetch_data, fetch_embedding_model

PHASE = "Evaluating"
PREDICTIONS_NAME = "predictions.jsonl"
OF_THE_BATCH = {"run", "digest", "size_bytes", "metrics", "first_error"}
"""What the report of a batch says of its file."""
SPLITS = {TEST: "test", VALIDATION: "validation"}
"""What a run is judged on, best first: nothing is chosen by validation rows, as nothing is trained."""


@dataclass(frozen=True)
class HoldOut:
    """The rows that are asked, in a file of their own."""

    path: Path
    split: str
    rows: int
    examples: list[CardExample]
    """The first of them, not answered yet."""


@dataclass(frozen=True)
class Answers:
    """What came of the hold-out."""

    path: Path
    figures: dict[str, Any]
    """As metrics.json holds them."""
    flat: dict[str, float]
    """Those that an Outcome has room for."""


def measure_untrained(
    run: TrainRun, *, reporter: Reporter, work_path: Path, should_stop: Callable[[], bool]
) -> Outcome:
    """Asks the hold-out and stores; goes on with the answers that an earlier start has kept.

    Raises a RunError that says what went wrong; Stopped, after what is finished was kept, once ``should_stop()``.
    """
    reporter.phase("Preparing")
    reporter.info("trainer.type is none: the model is asked as it is, and nothing is trained")
    for uri in (run.output_uri, run.checkpoint.uri):
        check_writable(uri, run.s3)
    token = read_token(run.hub_token_path)
    files = fetch_data(run, work_path / "data", token)
    source = open_source(run.config, files, seed=run.seed, warn=reporter.warning)
    embed = fetch_embedding_model(run, token)
    shown = build_shown_rows(run.config, source, seed=run.seed, warn=reporter.warning, embed=embed)
    folder = _start_folder(run, source, shown, work_path / "artifact")
    counts, hold_out = _take_hold_out(run, source, shown, work_path / "hold-out.jsonl")
    answers = None
    if hold_out is None:
        reporter.warning("nothing is held out, so nothing is measured: add dataset.validation or preprocessing.split")
    else:
        answers = _ask(run, hold_out, folder, work_path, reporter, should_stop)
    reporter.phase("Storing")
    _save_report(run, digest_files(files), counts, hold_out, answers, folder)
    published = publish_folder(folder, run.output_uri, run.s3)
    delete_folder(run.checkpoint.uri, run.s3)
    return Outcome(
        reason="Succeeded",
        message="trainer.type is none: the model was asked as it is, and nothing was trained",
        last_step=0 if hold_out is None else hold_out.rows,
        metrics={} if answers is None else answers.flat,
        artifact_uri=published.uri,
        artifact_digest=published.digest,
        artifact_size_bytes=published.size_bytes,
    )


def _start_folder(run: TrainRun, source: Source, shown: ShownRows, folder: Path) -> Path:
    """All that answers depend on. By its sums, the answers of an earlier start are known as this run's."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_prompting(run.config, source.table_columns, shown.pool, shown.vectors, folder)
    write_sums(folder)
    return folder


def _take_hold_out(run: TrainRun, source: Source, shown: ShownRows, path: Path) -> tuple[DataCounts, HoldOut | None]:
    """Goes over all rows twice: to count them, and to write those of one split to ``path``."""
    gaps = GapCounts()
    rows = Counter(own for own, _ in source.labelled_rows(gaps))
    counts = _count(source, rows, gaps)
    split = next((one for one in SPLITS if rows[one] > 0), None)
    if split is None:
        return counts, None
    first = list[Row]()

    def held_out() -> Iterator[Row]:
        for own, row in source.labelled_rows(GapCounts()):
            if own != split:
                continue
            if len(first) < CARD_EXAMPLES:
                first.append(row)
            yield {name: row[name] for name in source.columns.rendered}

    write_jsonl(path, held_out())
    prompt = build_prompt(run.config, source.columns, shown.retriever)
    examples = [CardExample(prompt.render_prompt(row), prompt.render_answer(row)) for row in first]
    return counts, HoldOut(path, SPLITS[split], rows[split], examples)


def _count(source: Source, rows: Counter[int], gaps: GapCounts) -> DataCounts:
    dropped, not_sampled = gaps.dropped.total(), int((source.splits == UNUSED).sum())
    return DataCounts(
        rows_read=rows.total() + dropped + not_sampled,
        rows_train=rows[TRAIN],
        rows_validation=rows[VALIDATION],
        rows_test=rows[TEST],
        rows_dropped_missing_value=dropped,
        rows_dropped_no_target=0,
        rows_truncated=0,
        rows_not_sampled=not_sampled,
        values_filled=gaps.filled.total(),
    )


def _ask(
    run: TrainRun,
    hold_out: HoldOut,
    folder: Path,
    work_path: Path,
    reporter: Reporter,
    should_stop: Callable[[], bool],
) -> Answers:
    """A batch over the hold-out, asked of what is going to be stored; its parts lie where checkpoints do."""
    uri = f"{run.checkpoint.uri.rstrip('/')}/{PREDICTIONS_NAME}"
    batch = PredictRun.model_validate(
        {
            **run.model_dump(include={"name", "namespace", "model_root", "model_cache_path", "hub_token_path", "s3"}),
            "config": {},
            "model": ModelLocation(artifact_uri=str(folder), base_model=run.config.base_model),
            "dataset": DataLocation(uri=str(hold_out.path), format="jsonl"),
            "output_uri": uri,
            "seed": run.seed,
        }
    )
    asked_path = work_path / "asked"
    asked_path.mkdir(exist_ok=True)
    predict(batch, reporter=reporter, work_path=asked_path, should_stop=should_stop, phase=PHASE)
    path = fetch_file(uri, work_path / "answered", run.s3)
    report = json.loads(fetch_file(f"{uri}{REPORT_SUFFIX}", work_path / "answered", run.s3).read_text("utf-8"))
    figures = {name: value for name, value in report.items() if name not in OF_THE_BATCH}
    flat = {f"eval.{name}": value for name, value in report["metrics"].items()}
    return Answers(path, {"split": hold_out.split, **figures}, flat)


def _save_report(
    run: TrainRun,
    data_digest: str,
    counts: DataCounts,
    hold_out: HoldOut | None,
    answers: Answers | None,
    folder: Path,
) -> None:
    """Figures, card and the answers themselves."""
    examples: list[CardExample] = []
    figures: dict[str, Any] = {}
    if hold_out is not None and answers is not None:
        shutil.copy(answers.path, folder / PREDICTIONS_NAME)
        examples = _add_answers(run, hold_out.examples, answers.path)
        figures = answers.figures
        counts = replace(counts, rows_truncated=int(figures["cut_rows"]))
    metrics = UntrainedMetrics(figures, counts, peak_memory_bytes())
    save_untrained_report(folder, describe_untrained(run, data_digest, examples), metrics)


def _add_answers(run: TrainRun, examples: list[CardExample], path: Path) -> list[CardExample]:
    """The answers to the first rows, which stand in their order; one that failed has none."""
    column = next(iter(prediction_fields(run.config.output_features[0])))
    with path.open(encoding="utf-8") as lines:
        return [
            replace(example, answer=json.loads(line)[column]) for example, line in zip(examples, lines, strict=False)
        ]
