"""The merged file: the input's columns as they were, and those of the predictions, as parquet, JSON lines or CSV.

Rows come in order and are written as they come. Knows no models.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from llm_api.config import CategoryOutputFeature, OutputFeature

from llm_runner.data.read import BATCH_ROWS, Row, Table, open_parquet
from llm_runner.data.value import is_missing, to_text
from llm_runner.errors import ConfigInvalid
from llm_runner.predict.record import Record
from llm_runner.report.json_value import to_json_value

OutputFormat = Literal["parquet", "jsonl", "csv"]
FORMATS: dict[str, OutputFormat] = {".parquet": "parquet", ".jsonl": "jsonl", ".csv": "csv"}


def output_format(uri: str) -> OutputFormat:
    """By the file's name. Raises ConfigInvalid."""
    found = next((kind for suffix, kind in FORMATS.items() if uri.endswith(suffix)), None)
    if found is None:
        raise ConfigInvalid(f"output: {uri} doesn't say its format; end the name in .parquet, .jsonl or .csv")
    return found


def prediction_fields(output: OutputFeature) -> dict[str, Any]:
    """The columns that are added, by name, with their types in parquet."""
    fields: dict[str, Any] = {f"{output.name}_predictions": pa.string()}
    if isinstance(output, CategoryOutputFeature):
        labels = pa.struct([(label, pa.float64()) for label in output.decoder.match])
        fields |= {
            f"{output.name}_probability": pa.float64(),
            f"{output.name}_probabilities": labels,
            f"{output.name}_response": pa.string(),
        }
    return {**fields, f"{output.name}_error": pa.string()}


def to_columns(output: OutputFeature, record: Record) -> Row:
    """What is added to a row."""
    columns: Row = {f"{output.name}_predictions": record.value}
    if isinstance(output, CategoryOutputFeature):
        chosen = None if record.probabilities is None or record.value is None else record.probabilities[record.value]
        columns |= {
            f"{output.name}_probability": chosen,
            f"{output.name}_probabilities": record.probabilities,
            f"{output.name}_response": record.text,
        }
    return {**columns, f"{output.name}_error": record.error}


def write_table(path: Path, kind: OutputFormat, rows: Iterable[Row], table: Table, added: Mapping[str, Any]) -> None:
    """``rows`` have the columns of ``table`` and those ``added``, which come last."""
    columns = [*table.columns, *added]
    if kind == "jsonl":
        write_jsonl(path, rows)
    elif kind == "csv":
        _write_csv(path, rows, columns)
    else:
        _write_parquet(path, rows, pa.schema([*_input_fields(table), *(pa.field(*one) for one in added.items())]))


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(to_json_value(row), ensure_ascii=False, default=to_text) + "\n")


def _write_csv(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([to_text(row[column]) for column in columns] for row in rows)


def _write_parquet(path: Path, rows: Iterable[Row], schema: Any) -> None:
    as_text = {field.name for field in schema if field.metadata is not None and JSON_TEXT in field.metadata}
    with pq.ParquetWriter(path, schema) as writer:
        waiting = iter(rows)
        while some := list(islice(waiting, BATCH_ROWS)):
            values = [{name: _to_cell(value, name in as_text) for name, value in row.items()} for row in some]
            writer.write_table(pa.Table.from_pylist(values, schema=schema))


JSON_TEXT = b"json"
"""Marks a column whose values are of several kinds, or nested: as text they read as people would write them."""


def _to_cell(value: Any, as_text: bool) -> Any:
    return to_text(value) if as_text and not is_missing(value) else value


def _input_fields(table: Table) -> list[Any]:
    """As they are in parquet; text in CSV; of JSON the narrowest that holds all values."""
    if table.format == "parquet":
        with open_parquet(table.path) as file:
            return list(file.schema_arrow)
    if table.format in ("csv", "tsv"):
        return [pa.field(column, pa.string()) for column in table.columns]
    kinds: dict[str, set[type]] = {column: set() for column in table.columns}
    for row in table.rows(table.columns):
        for column, value in row.items():
            if value is not None:
                kinds[column].add(type(value))
    return [_field_of(column, found) for column, found in kinds.items()]


def _field_of(column: str, kinds: set[type]) -> Any:
    if kinds == {bool}:
        return pa.field(column, pa.bool_())
    if kinds and kinds <= {int, float}:
        return pa.field(column, pa.int64() if kinds == {int} else pa.float64())
    return pa.field(column, pa.string(), metadata=None if kinds <= {str} else {JSON_TEXT: b"text"})
