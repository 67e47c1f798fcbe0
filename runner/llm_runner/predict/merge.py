"""All shards' records in the order of the rows, beside the input's own columns, as one file and one report.

Records are sorted on disk, so that they may be more than memory holds.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_api.config import CategoryOutputFeature

from llm_runner.data.read import Row, Table
from llm_runner.errors import StorageFailed
from llm_runner.predict.measure import Tally
from llm_runner.predict.parts import Parts
from llm_runner.predict.record import Record
from llm_runner.predict.table import output_format, prediction_fields, to_columns, write_table
from llm_runner.predict.task import Task
from llm_runner.store.digest import file_digest


@dataclass(frozen=True)
class Merged:
    """A run that is over."""

    report: dict[str, Any]
    """As it is stored."""

    @property
    def metrics(self) -> dict[str, float]:
        metrics: dict[str, float] = self.report["metrics"]
        return metrics

    @property
    def digest(self) -> str:
        return str(self.report["digest"])

    @property
    def size_bytes(self) -> int:
        return int(self.report["size_bytes"])


def merge(table: Table, task: Task, parts: Parts, work_path: Path) -> Merged:
    """Stores output and report and deletes the parts, unless another shard was faster.

    Raises StorageFailed where a row's record is not there.
    """
    try:
        merged = _merge(table, task, parts, work_path)
    except StorageFailed:
        # Another shard that saw all marks, too, deletes the parts once output and report are stored.
        report = parts.load_report()
        if report is None:
            raise
        return Merged(report)
    parts.delete()
    return merged


def _merge(table: Table, task: Task, parts: Parts, work_path: Path) -> Merged:
    output = task.config.output_features[0]
    labels = list(output.decoder.match) if isinstance(output, CategoryOutputFeature) else None
    tally, path = Tally(labels), work_path / "merged"
    with closing(_sort_records(parts, work_path / "records.sqlite")) as records:
        rows = _join(table, task, records, tally)
        write_table(path, output_format(parts.output_uri), rows, table, prediction_fields(output))
    parts.publish(path)
    stored = {"digest": f"sha256:{file_digest(path)}", "size_bytes": path.stat().st_size}
    report = {**stored, "metrics": tally.to_flat_metrics(), "first_error": tally.first_error, **tally.to_report()}
    parts.save_report(report)
    return Merged(report)


def _join(table: Table, task: Task, records: sqlite3.Connection, tally: Tally) -> Iterator[Row]:
    output = task.config.output_features[0]
    stored = records.execute("SELECT line FROM records ORDER BY place")
    for number, row in enumerate(table.rows(table.columns)):
        found = stored.fetchone()
        record = None if found is None else Record.from_line(found[0])
        if record is None or record.row != number:
            raise StorageFailed(f"row {number} has no record among the finished parts; run it again to answer it")
        tally.add(record, task.to_known_answer(row))
        yield {**row, **to_columns(output, record)}


def _sort_records(parts: Parts, path: Path) -> sqlite3.Connection:
    path.unlink(missing_ok=True)
    records = sqlite3.connect(path)
    records.execute("CREATE TABLE records (place INTEGER PRIMARY KEY, line TEXT)")
    pairs = ((record.row, record.to_line()) for record in parts.load())
    records.executemany("INSERT OR REPLACE INTO records VALUES (?, ?)", pairs)
    records.commit()
    return records
