"""One shard of a batch: its rows are asked as they are read, and kept as they are answered.

Which rows are its own, and that what was kept by an earlier start isn't asked again, is decided here; where records
are kept is ``parts``'.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from time import monotonic

from llm_api.report import Progress

from llm_runner.data.read import Row, Table
from llm_runner.errors import ConfigInvalid, DataInvalid
from llm_runner.predict.answerer import Answerer, Pace
from llm_runner.predict.parts import Parts
from llm_runner.predict.record import Record, to_record
from llm_runner.predict.task import Question, Task
from llm_runner.report.reporter import Reporter

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Set by Kubernetes in each pod of an Indexed Job."""
SAVE_SECONDS = 5.0
SAVE_ROWS = 500
"""Records are kept at least this often: what a killed shard loses is less."""
MEASURED_ROWS = 8
"""Known answers that are scored in one batch."""


@dataclass(frozen=True)
class Shard:
    """Every ``of``-th row, beginning with row ``number``."""

    number: int
    of: int

    def owns(self, row: int) -> bool:
        return row % self.of == self.number

    def count(self, rows: int) -> int:
        return len(range(self.number, rows, self.of))


def choose_shard(of: int) -> Shard:
    """By the pod's index. Raises ConfigInvalid."""
    written = os.environ.get(INDEX_VARIABLE)
    if written is None and of == 1:
        return Shard(0, 1)
    if written is None or not written.isdecimal() or int(written) >= of:
        found = "is not set" if written is None else f"is {written!r}"
        raise ConfigInvalid(f"{INDEX_VARIABLE} {found}; it says which shard this is, from 0 to {of - 1}")
    return Shard(int(written), of)


@dataclass
class ShardWork:
    """What answering one shard needs."""

    shard: Shard
    table: Table
    rows_in_all: int
    task: Task
    parts: Parts
    reporter: Reporter
    phase: str
    """What people are told that this is."""
    kept: set[int] = field(default_factory=set)
    """Rows that an earlier start has answered."""
    clock: Callable[[], float] = monotonic

    @property
    def own_rows(self) -> int:
        return self.shard.count(self.rows_in_all)

    @property
    def is_done(self) -> bool:
        return len(self.kept) == self.own_rows

    def answer(self, answerer: Answerer, seed: int, pace: Pace) -> None:
        """Answers what is left. What is finished is kept, also where this ends early. Raises Stopped."""
        records = _Asked(self, answerer, seed, pace).records()
        saver = _Saver(self)
        try:
            for record in records:
                saver.add(record)
        finally:
            saver.flush()

    def left(self) -> Iterator[tuple[int, Row]]:
        for number, row in enumerate(self.table.rows(self.table.columns)):
            if self.shard.owns(number) and number not in self.kept:
                yield number, row


class _Saver:
    """Keeps records in parts, and tells how far it is."""

    def __init__(self, work: ShardWork) -> None:
        self._work = work
        self._records: list[Record] = []
        self._done = len(work.kept)
        self._first = self._done
        self._started = self._saved = work.clock()

    def add(self, record: Record) -> None:
        self._records.append(record)
        self._done += 1
        self._report()
        if len(self._records) >= SAVE_ROWS or self._work.clock() - self._saved >= SAVE_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._records:
            self._work.parts.save(self._work.shard.number, self._records)
            self._work.kept.update(record.row for record in self._records)
            self._records = []
        self._saved = self._work.clock()

    def _report(self) -> None:
        seconds, fresh = self._work.clock() - self._started, self._done - self._first
        left = self._work.own_rows - self._done
        progress = Progress(
            phase=self._work.phase,
            step=self._done,
            of=self._work.own_rows,
            eta_seconds=seconds / fresh * left,
            resumed_from_step=self._first if self._first > 0 else None,
        )
        self._work.reporter.step(progress)


class _Asked:
    """Rows on their way from the table through the model."""

    def __init__(self, work: ShardWork, answerer: Answerer, seed: int, pace: Pace) -> None:
        self._work = work
        self._answerer = answerer
        self._seed = seed
        self._pace = pace
        self._rows: dict[int, Row] = {}
        self._cut: set[int] = set()
        self._impossible: list[Record] = []

    def records(self) -> Iterator[Record]:
        """Of all rows, as they are done."""
        answers = self._answers()
        while some := list(islice(answers, MEASURED_ROWS)):
            yield from self._measure([record for record in some if record.row in self._rows])
            yield from (record for record in some if record.row not in self._rows)
            for record in some:
                self._rows.pop(record.row, None)

    def _answers(self) -> Iterator[Record]:
        for number, result in self._answerer.answer(self._work.task, self._questions(), self._seed, self._pace):
            yield to_record(number, result, is_cut=number in self._cut)
            yield from self._take_impossible()
        yield from self._take_impossible()

    def _take_impossible(self) -> list[Record]:
        taken, self._impossible = self._impossible, []
        return taken

    def _questions(self) -> Iterator[tuple[int, Question]]:
        for number, row in self._work.left():
            try:
                question = self._work.task.to_question(row)
            except DataInvalid as error:
                self._impossible.append(to_record(number, error))
                continue
            if question.is_cut:
                self._cut.add(number)
            self._rows[number] = row
            yield number, question

    def _measure(self, records: list[Record]) -> list[Record]:
        """With how likely the known answers are, where they are text."""
        solved = dict(self._solve(records))
        if not solved:
            return records
        prompts, answers = [ids[0] for ids in solved.values()], [ids[1] for ids in solved.values()]
        likely = dict(zip(solved, self._answerer.measure(prompts, answers, self._pace), strict=True))
        return [
            replace(one, log_likelihood=likely[one.row], answer_tokens=len(solved[one.row][1]))
            if one.row in likely
            else one
            for one in records
        ]

    def _solve(self, records: list[Record]) -> Iterator[tuple[int, tuple[list[int], list[int]]]]:
        """Prompt and known answer of each row that has one."""
        task = self._work.task
        for record in records if task.labels is None else ():
            row = self._rows[record.row]
            answer = task.to_known_answer(row)
            ids = ([], []) if answer is None else task.to_solved_ids(row, answer)
            if ids[1]:
                yield record.row, ids
