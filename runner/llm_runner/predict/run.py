"""``llm-runner predict``: a PredictRun from its file to its part of the predictions, or to all of them merged.

Read from top to bottom: look at everything cheap, answer the shard's rows, keep them, merge if it is the last.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_api.report import Outcome
from llm_api.run import PredictRun

from llm_runner.data.columns import check_columns
from llm_runner.data.read import Table, open_table
from llm_runner.data.storedfile import digest
from llm_runner.data.tokens import build_encoder
from llm_runner.errors import DataInvalid, Stopped
from llm_runner.model.load import load_config, load_tokenizer
from llm_runner.model.rope import context_length
from llm_runner.predict.answerer import Answerer, Pace
from llm_runner.predict.examples import load_examples
from llm_runner.predict.load import load_engine
from llm_runner.predict.merge import Merged, merge
from llm_runner.predict.parts import Parts
from llm_runner.predict.shard import Shard, ShardWork, choose_shard
from llm_runner.predict.source import ModelSource, fetch_source
from llm_runner.predict.table import output_format, prediction_fields
from llm_runner.predict.task import Task, build_setup, complete_config
from llm_runner.report.reporter import Reporter
from llm_runner.store.digest import SUMS_NAME, file_digest
from llm_runner.store.fetch import fetch_table
from llm_runner.store.hub import read_token
from llm_runner.store.publish import check_writable

SEARCH_ROWS = 8
ADAPTER = "adapter"
PHASE = "Predicting"


def predict(
    run: PredictRun,
    *,
    reporter: Reporter,
    work_path: Path,
    should_stop: Callable[[], bool] = lambda: False,
    phase: str = PHASE,
) -> Outcome:
    """Answers this shard's rows, going on with what an earlier start has kept. ``phase``: what that is called.

    Raises a RunError that says what went wrong; Stopped, after what is finished was kept, once ``should_stop()``.
    """
    reporter.phase("Preparing")
    shard = choose_shard(run.shards)
    output_format(run.output_uri)
    check_writable(run.output_uri.rpartition("/")[0], run.s3)
    source = fetch_source(run, work_path)
    table = _open_table(run, work_path)
    parts = Parts(run.output_uri, _digest(run, source, table), run.s3)
    if (report := parts.load_report()) is not None:
        reporter.info(f"{run.output_uri} holds the predictions of this very run already; nothing is left to do")
        return _to_outcome(run, Merged(report))
    work = _plan_work(run, source, table, shard, parts, reporter, phase)
    resumed_from = len(work.kept)
    if not work.is_done:
        _answer(run, source, work, work_path, should_stop)
    parts.mark_done(shard.number)
    if parts.count_done() < run.shards and parts.load_report() is None:
        return _to_shard_outcome(work, resumed_from)
    reporter.phase("Storing")
    return _to_outcome(run, merge(table, work.task, parts, work_path), resumed_from)


def _open_table(run: PredictRun, work_path: Path) -> Table:
    token = read_token(run.hub_token_path)
    file = fetch_table(run.dataset.uri, work_path / "data", run.s3, token)
    return open_table(file, run.dataset.format)


def _digest(run: PredictRun, source: ModelSource, table: Table) -> str:
    """Of all that answers depend on. Where an artifact lies is no part of it, if its sums say what it is."""
    sums = None if source.artifact_path is None else source.artifact_path / SUMS_NAME
    artifact = file_digest(sums) if sums is not None and sums.is_file() else None
    by_place = set() if artifact is None else {"artifact_uri"}
    known = {
        "config": source.config.model_dump(mode="json", exclude_unset=True),
        "model": run.model.model_dump(mode="json", exclude_unset=True, exclude=by_place),
        "base": source.base_name,
        "artifact": artifact,
        "data": digest([table.path]),
        "format": table.format,
        "shards": run.shards,
        "seed": run.seed,
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _plan_work(
    run: PredictRun, source: ModelSource, table: Table, shard: Shard, parts: Parts, reporter: Reporter, phase: str
) -> ShardWork:
    task = _build_task(run, source, table)
    check_columns([(table, task.prompt.columns.inputs)])
    taken = [name for name in prediction_fields(task.config.output_features[0]) if name in table.columns]
    if taken:
        raise DataInvalid(
            f"{run.dataset.uri}: has columns that the predictions are written to: {', '.join(map(repr, taken))}; "
            "rename them, or the output feature"
        )
    rows = sum(1 for _ in table.rows(table.columns[:1]))
    kept = {record.row for record in parts.load(shard.number)}
    if kept:
        reporter.info(f"{len(kept)} of {shard.count(rows)} rows were answered before; the others follow")
    return ShardWork(shard, table, rows, task, parts, reporter, phase, kept)


def _build_task(run: PredictRun, source: ModelSource, table: Table) -> Task:
    tokenizer = load_tokenizer(source.tokenizer_path)
    config = complete_config(source.config, source.base_name)
    context = context_length(load_config(source.base_path, config.model_parameters), config.model_parameters)
    setup = build_setup(config, tokenizer, build_encoder(tokenizer), context)
    shown = [column for column in table.columns if column != source.config.rejected_column]
    return load_examples(setup, source, run).build_task_for(setup, shown)


def _answer(
    run: PredictRun, source: ModelSource, work: ShardWork, work_path: Path, should_stop: Callable[[], bool]
) -> None:
    with _running_answerer(source, work) as (answerer, running):
        work.reporter.phase(work.phase)
        try:
            work.answer(answerer, run.seed, Pace(lambda: running, SEARCH_ROWS, should_stop))
        except Stopped as error:
            raise Stopped(
                f"stopped; {len(work.kept)} of {work.own_rows} rows are kept, and the next start goes on"
            ) from error


@contextmanager
def _running_answerer(source: ModelSource, work: ShardWork) -> Iterator[tuple[Answerer, int]]:
    """With how many requests it works on at once."""
    tokenizer = work.task.encoder.tokenizer
    loaded = load_engine(source, tokenizer, work.task.generation, work.reporter)
    engine, adapters = loaded.engine, loaded.adapters
    engine.start()
    try:
        adapter_path = source.adapter_path
        if adapter_path is not None:
            engine.call(lambda: adapters.add(ADAPTER, adapter_path)).result()
        adapter = None if adapter_path is None else ADAPTER
        answerer = Answerer(engine, loaded.model, tokenizer, loaded.special, adapters, adapter)
        yield answerer, loaded.limits.running
    finally:
        engine.close()


def _to_shard_outcome(work: ShardWork, resumed_from: int) -> Outcome:
    return Outcome(
        reason="Succeeded",
        message=f"shard {work.shard.number} of {work.shard.of} is done; the one that ends last merges them all",
        last_step=work.own_rows,
        resumed_from_step=resumed_from if resumed_from > 0 else None,
        metrics={"rows": float(work.own_rows)},
    )


def _to_outcome(run: PredictRun, merged: Merged, resumed_from: int = 0) -> Outcome:
    """Raises DataInvalid where not a single row was answered."""
    rows, failed = int(merged.report["rows"]), int(merged.report["failed_rows"])
    if failed == rows:
        raise DataInvalid(
            f"no row could be answered; {run.output_uri} says why for each. The first: {merged.report['first_error']}"
        )
    return Outcome(
        reason="Succeeded",
        message="" if failed == 0 else f"{failed} of {rows} rows could not be answered; their error column says why",
        last_step=rows,
        resumed_from_step=resumed_from if resumed_from > 0 else None,
        metrics=merged.metrics,
        artifact_uri=run.output_uri,
        artifact_digest=merged.digest,
        artifact_size_bytes=merged.size_bytes,
    )
