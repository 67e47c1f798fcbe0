"""One row in, one prompt out: the same text for training, evaluation and serving.

Knows no files, splits or tokens. A cell without a value is empty text here; ``missing_value_strategy`` comes before.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time
from textwrap import shorten
from typing import Any

from llm_api.config import LLMConfig
from llm_api.config.template import CONTEXT, SAMPLE, TASK

from llm_runner.data.columns import Columns, column_of
from llm_runner.data.read import Row
from llm_runner.data.retrieval import Retriever
from llm_runner.data.template import Field, Template, build_template
from llm_runner.data.value import is_missing, to_text
from llm_runner.errors import DataInvalid


@dataclass(frozen=True)
class Prompt:
    """How a config turns rows into prompts."""

    template: Template
    columns: Columns
    task: str = ""
    retriever: Retriever | None = None
    lowercase_inputs: bool = False
    lowercase_answer: bool = False

    def render_prompt(self, row: Row) -> str:
        """The prompt for a row, which needs no answer.

        Raises DataInvalid where the row lacks a column, naming those that it has, or a value doesn't fit its format
        spec.
        """
        missing = [column for column in self.columns.inputs if column not in row]
        if missing:
            there = ", ".join(map(repr, row))
            raise DataInvalid(f"the row has no {', '.join(map(repr, missing))}; the columns there are: {there}")
        row = self._in_case(row)
        return "".join(part if isinstance(part, str) else self._render_field(part, row) for part in self.template.parts)

    def read_ahead(self, rows: Sequence[Row]) -> None:
        """Says which rows are asked for next: finding examples for many takes less time than one by one."""
        if self.retriever is not None:
            self.retriever.read_ahead([self._in_case(row) for row in rows])

    def render_answer(self, row: Row) -> str:
        """The text that the model is to give back."""
        answer = to_text(row[self.columns.output])
        return answer.lower() if self.lowercase_answer else answer

    def render_rejected(self, row: Row) -> str:
        """The answer that is worse. Raises DataInvalid where there is none."""
        worse = to_text(row[str(self.columns.rejected)])
        if not worse:
            raise DataInvalid(
                f"column {self.columns.rejected!r} (trainer.rejected_column) has no value in the row whose "
                f"{self.columns.output!r} is {shorten(self.render_answer(row), 80)!r}; a pair needs an answer that is "
                "worse: write one, or take the row out"
            )
        return worse.lower() if self.lowercase_answer else worse

    def render_solved(self, row: Row) -> str:
        """A row as an example: its input and its answer, labelled as in the templates of our own."""
        sample = render_sample(self._in_case(row), self.columns.inputs)
        return f"Input:\n{sample}\nOutput:\n{self.render_answer(row)}"

    def _in_case(self, row: Row) -> Row:
        """Only what comes from the data is put into lower case: a template may hold a model's special tokens."""
        if not self.lowercase_inputs:
            return row
        return row | {column: to_text(row[column]).lower() for column in self.columns.inputs}

    def _render_field(self, field: Field, row: Row) -> str:
        if field.name == TASK:
            return self.task
        if field.name == SAMPLE:
            return render_sample(row, self.columns.sample)
        if field.name == CONTEXT:
            return self._render_context(row)
        return format_value(row[field.name], field)

    def _render_context(self, row: Row) -> str:
        solved = self.retriever.retrieve(row) if self.retriever is not None else ()
        return "\n\n".join(map(self.render_solved, solved))


def build_prompt(config: LLMConfig, columns: Columns, retriever: Retriever | None = None) -> Prompt:
    """A config's prompt; ``retriever`` where the config retrieves."""
    given = config.input_features[0]
    task = config.effective_prompt.task
    return Prompt(
        build_template(config.effective_prompt, column_of(given)),
        columns,
        "" if task is None else task,
        retriever,
        lowercase_inputs=given.preprocessing.lowercase,
        lowercase_answer=config.output_features[0].preprocessing.lowercase,
    )


def render_sample(row: Row, columns: Sequence[str]) -> str:
    """The value alone of one column; a line ``name: value`` for each of several."""
    if len(columns) == 1:
        return to_text(row[columns[0]])
    return "\n".join(f"{column}: {to_text(row[column])}" for column in columns)


def format_value(value: Any, field: Field) -> str:
    """The value by the field's format spec; text that reads as a number, or as a date or time by ISO 8601, takes the
    spec of one, as CSV knows only text.
    """
    if not field.spec or is_missing(value):
        return to_text(value)
    for candidate in _candidates(value, field.spec):
        try:
            return format(candidate, field.spec)
        except (ValueError, TypeError):
            continue
    raise DataInvalid(f"prompt.template: {{{field.name}:{field.spec}}} can't format {value!r} of column {field.name!r}")


def _candidates(value: Any, spec: str) -> Iterator[Any]:
    """What the value may be read as. Dates come last: their own format would take any spec, and fill none of it in."""
    yield to_text(value) if isinstance(value, bool | list | dict | bytes | date | time) else value
    for read in (int, float):
        with suppress(ValueError, TypeError):
            yield read(value)
    for parse in (datetime.fromisoformat, time.fromisoformat):
        if "%" in spec:
            with suppress(ValueError):
                yield parse(to_text(value).strip())
