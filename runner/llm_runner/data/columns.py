"""Which columns of the data a config needs, and whether they are there. Reads no rows."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llm_api.config import InputFeature, LLMConfig, OutputFeature, RandomSplit

from llm_runner.data.read import Table
from llm_runner.data.storedfile import StoredFile
from llm_runner.data.template import Template, build_template
from llm_runner.errors import DataInvalid


@dataclass(frozen=True)
class Columns:
    """The columns that one config reads."""

    inputs: tuple[str, ...]
    """Those that the prompt is made of."""
    sample: tuple[str, ...]
    """Those that ``{__sample__}`` stands for: the input feature's own, or where it has none all that are no answer."""
    output: str
    split: str | None = None
    rejected: str | None = None
    """Of the answer that is worse than the output's, where the trainer takes pairs."""

    @property
    def rendered(self) -> tuple[str, ...]:
        """Those that every file must have: for the prompt and its answer."""
        return tuple(dict.fromkeys((*self.inputs, self.output, *self._rejected)))

    @property
    def read(self) -> tuple[str, ...]:
        """Those that are read of the training file: the split's as well."""
        split = () if self.split is None else (self.split,)
        return tuple(dict.fromkeys((*self.rendered, *split)))

    @property
    def _rejected(self) -> tuple[str, ...]:
        return () if self.rejected is None else (self.rejected,)


def plan_columns(config: LLMConfig, available: Sequence[str], *, splits: bool = True) -> Columns:
    """The columns needed, of which some may not be ``available``. ``splits``: whether the data is split by the
    config.
    """
    own, output = column_of(config.input_features[0]), column_of(config.output_features[0])
    split = split_column(config) if splits else None
    rejected = config.rejected_column
    sample = _sample_columns(own, available, {output, split, rejected})
    template = build_template(config.effective_prompt, own)
    return Columns(_input_columns(template, sample), sample, output, split, rejected)


def column_of(feature: InputFeature | OutputFeature) -> str:
    """A feature's column in the data: its ``column``, or where that isn't written its name."""
    return feature.name if feature.column is None else feature.column


def split_column(config: LLMConfig) -> str | None:
    """The column that ``preprocessing.split`` goes by; a stratified split without one goes by the answers."""
    split = config.preprocessing.split
    if isinstance(split, RandomSplit):
        return None
    return column_of(config.output_features[0]) if split.column is None else split.column


def check_columns(needed: Iterable[tuple[Table, Sequence[str]]]) -> None:
    """Raises DataInvalid that names, for every file, all columns that it lacks, those that it has and the nearest."""
    problems = [
        _describe_missing(table.path, missing, table.columns)
        for table, columns in needed
        if (missing := [column for column in columns if column not in table.columns])
    ]
    if problems:
        raise DataInvalid("\n".join(problems))


def _describe_missing(path: StoredFile, missing: Iterable[str], columns: Sequence[str]) -> str:
    return f"{path}: no column {describe_columns(missing, columns)}"


def describe_columns(lacking: Iterable[str], columns: Sequence[str]) -> str:
    """Columns that aren't there, each with the nearest of those that are, and all of these."""
    named = ", ".join(repr(column) + _nearest(column, columns) for column in lacking)
    return f"{named}; the columns there are: {', '.join(map(repr, columns))}"


def _nearest(column: str, columns: Sequence[str]) -> str:
    by_folded = {name.strip().casefold(): name for name in columns}
    close = difflib.get_close_matches(column.strip().casefold(), by_folded, n=1)
    return f" (is it {by_folded[close[0]]!r}?)" if close else ""


def _sample_columns(own: str, available: Sequence[str], others: set[str | None]) -> tuple[str, ...]:
    if own in available:
        return (own,)
    return tuple(column for column in available if column not in others)


def _input_columns(template: Template, sample: Sequence[str]) -> tuple[str, ...]:
    columns = [*template.columns, *(sample if template.has_sample else ())]
    return tuple(dict.fromkeys(columns))
