"""The rows of a run's files, each complete and with the split that it belongs to, as often as they are asked for.

Renders and tokenizes nothing.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from llm_api.config import CategoryOutputFeature, LLMConfig, OutputFeature

from llm_runner.data.columns import Columns, check_columns, column_of, plan_columns
from llm_runner.data.missing import Gap, GapCounts, complete_rows, resolve_modes
from llm_runner.data.read import Row, Table, open_table
from llm_runner.data.split import TEST, TRAIN, UNUSED, VALIDATION, Splits, assign_splits
from llm_runner.data.storedfile import StoredFile
from llm_runner.data.together import ALONE, Together

Warn = Callable[[str], None]


@dataclass(frozen=True)
class DataFile:
    """A table that can be read from here."""

    path: StoredFile
    format: str = "auto"


@dataclass(frozen=True)
class DataFiles:
    """The tables of a run."""

    train: DataFile
    validation: DataFile | None = None
    """None: taken from train by ``preprocessing.split``."""
    test: DataFile | None = None

    @property
    def by_split(self) -> dict[int, DataFile]:
        files = {TRAIN: self.train, VALIDATION: self.validation, TEST: self.test}
        return {split: file for split, file in files.items() if file is not None}


@dataclass(frozen=True)
class Source:
    """Files that were looked through: their columns are there, and each training row has its split."""

    tables: Mapping[int, Table]
    columns: Columns
    gaps: tuple[Gap, ...]
    splits: Splits
    """One for each complete row of the training table, or of this machine's part of it."""

    @property
    def table_columns(self) -> tuple[str, ...]:
        """All of the training table that a row asked later may have: not what only training goes by."""
        left_out = {self.columns.rejected, self.columns.split} - {self.columns.output}
        return tuple(name for name in self.tables[TRAIN].columns if name not in left_out)

    def training_table_rows(self, counts: GapCounts) -> Iterator[tuple[int, Row]]:
        """The complete rows of the training table, those of UNUSED split too."""
        rows = complete_rows(self.tables[TRAIN].rows(self.columns.read), self.gaps, counts)
        return zip(map(int, self.splits), rows, strict=True)

    def labelled_rows(self, counts: GapCounts) -> Iterator[tuple[int, Row]]:
        """All rows that are used, file after file."""
        for split, row in self.training_table_rows(counts):
            if split != UNUSED:
                yield split, row
        for split, table in self.tables.items():
            if split != TRAIN:
                for row in complete_rows(table.rows(self.columns.rendered), self.gaps, counts):
                    yield split, row


def open_source(config: LLMConfig, files: DataFiles, *, seed: int, warn: Warn, together: Together = ALONE) -> Source:
    """Looks through the training file once, or twice to fill with modes; of several machines each looks through its
    part. Raises DataInvalid.
    """
    tables = {split: open_table(file.path, file.format) for split, file in files.by_split.items()}
    given = [split for split in tables if split != TRAIN]
    columns = plan_columns(config, tables[TRAIN].columns, splits=VALIDATION not in given)
    check_columns((table, columns.read if split == TRAIN else columns.rendered) for split, table in tables.items())
    _warn_of_surprises(config, columns, given, warn)
    planned = plan_gaps(config, columns)
    divides = stands_alone(config, planned)
    tables = {split: table.part(together.number, together.count, divides=divides) for split, table in tables.items()}
    gaps = tuple(resolve_modes(planned, tables[TRAIN].rows(columns.read)))
    rows = complete_rows(tables[TRAIN].rows(columns.read), gaps, GapCounts())
    values = (None if columns.split is None else row[columns.split] for row in rows)
    splits = assign_splits(config.preprocessing, values, given=given, seed=seed, together=together)
    return Source(tables, columns, gaps, splits)


def stands_alone(config: LLMConfig, gaps: Iterable[Gap]) -> bool:
    """Whether a row needs no other for its prompt and answer: none that it is filled from, none that it shows."""
    if config.effective_prompt.retrieval.type is not None:
        return False
    return all(gap.strategy in ("drop_row", "fill_with_const") for gap in gaps)


def plan_gaps(config: LLMConfig, columns: Columns) -> list[Gap]:
    """What each column's missing values become, as its feature says; a missing category is the fallback label."""
    given, output = config.input_features[0].preprocessing, config.output_features[0]
    gaps = [Gap(column, given.missing_value_strategy, given.fill_value) for column in columns.inputs]
    return [*gaps, Gap(columns.output, output.preprocessing.missing_value_strategy, _fill_of(output))]


def _fill_of(output: OutputFeature) -> str:
    if isinstance(output, CategoryOutputFeature):
        return str(output.effective_fallback_label)
    return output.preprocessing.fill_value


def _warn_of_surprises(config: LLMConfig, columns: Columns, given: Collection[int], warn: Warn) -> None:
    split_is_written = "split" in config.preprocessing.model_fields_set
    if VALIDATION in given and split_is_written:
        warn("preprocessing.split is not used, as there is a validation file: every row of the training file trains")
    own = column_of(config.input_features[0])
    if config.effective_prompt.template is None and columns.sample != (own,):
        warn(f"the data has no column {own!r}: the prompt shows {', '.join(map(repr, columns.sample))} instead")
