"""Cells without a value: ``missing_value_strategy`` over a stream of rows. Decides nothing about what a value means."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from llm_runner.data.read import Row
from llm_runner.data.value import is_missing, to_text


@dataclass(frozen=True)
class Gap:
    """What to do where ``column`` has no value."""

    column: str
    strategy: str
    """drop_row, fill_with_const, fill_with_mode, bfill or ffill."""
    fill: str = ""


@dataclass
class GapCounts:
    """Rows per column whose cell had no value."""

    filled: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


def complete_rows(rows: Iterable[Row], gaps: Sequence[Gap], counts: GapCounts) -> Iterator[Row]:
    """The rows with every gap filled, less those that can't be: each one that is left has a value in every gap's
    column.

    Rows are changed in place. ``bfill`` holds rows back until the next value; the rest hold none. ``fill_with_mode``
    must have been through ``resolve_modes``.
    """
    constants = [gap for gap in gaps if gap.strategy == "fill_with_const"]
    forward = [gap.column for gap in gaps if gap.strategy == "ffill"]
    backward = [gap.column for gap in gaps if gap.strategy == "bfill"]
    if constants:
        rows = _fill_constants(rows, constants, counts)
    if forward:
        rows = _fill_forward(rows, forward, counts)
    if backward:
        rows = _fill_backward(rows, backward, counts)
    return _drop_incomplete(rows, [gap.column for gap in gaps if gap.strategy != "fill_with_const"], counts)


def resolve_modes(gaps: Sequence[Gap], rows: Iterable[Row]) -> list[Gap]:
    """``fill_with_mode`` as a constant: the column's most frequent value, the first of them where several are.

    Reads ``rows`` only if a gap asks for it. A column without any value keeps its gaps, whose rows are then dropped.
    """
    tallies: dict[str, Counter[str]] = {gap.column: Counter() for gap in gaps if gap.strategy == "fill_with_mode"}
    for row in rows if tallies else ():
        for column, tally in tallies.items():
            if not is_missing(row[column]):
                tally[to_text(row[column])] += 1
    return [_with_mode(gap, tallies[gap.column]) if gap.column in tallies else gap for gap in gaps]


def _with_mode(gap: Gap, tally: Counter[str]) -> Gap:
    if not tally:
        return replace(gap, strategy="drop_row")
    return replace(gap, strategy="fill_with_const", fill=tally.most_common(1)[0][0])


def _fill_constants(rows: Iterable[Row], gaps: Sequence[Gap], counts: GapCounts) -> Iterator[Row]:
    for row in rows:
        for gap in gaps:
            if is_missing(row[gap.column]):
                row[gap.column] = gap.fill
                counts.filled[gap.column] += 1
        yield row


def _fill_forward(rows: Iterable[Row], columns: Sequence[str], counts: GapCounts) -> Iterator[Row]:
    newest: Row = dict.fromkeys(columns)
    for row in rows:
        for column in columns:
            if not is_missing(row[column]):
                newest[column] = row[column]
            elif newest[column] is not None:
                row[column] = newest[column]
                counts.filled[column] += 1
        yield row


def _fill_backward(rows: Iterable[Row], columns: Sequence[str], counts: GapCounts) -> Iterator[Row]:
    waiting: deque[Row] = deque()
    for row in rows:
        for column in columns:
            if not is_missing(row[column]):
                _fill_waiting(waiting, column, row, counts)
        waiting.append(row)
        while waiting and not any(is_missing(waiting[0][column]) for column in columns):
            yield waiting.popleft()
    yield from waiting


def _fill_waiting(waiting: Iterable[Row], column: str, source: Row, counts: GapCounts) -> None:
    for row in waiting:
        if is_missing(row[column]):
            row[column] = source[column]
            counts.filled[column] += 1


def _drop_incomplete(rows: Iterable[Row], columns: Sequence[str], counts: GapCounts) -> Iterator[Row]:
    for row in rows:
        gap = next((column for column in columns if is_missing(row[column])), None)
        if gap is None:
            yield row
        else:
            counts.dropped[gap] += 1
