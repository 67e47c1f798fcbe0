"""Solved examples for a prompt: other training rows, shown with their answers in ``{__context__}``.

Only rows of the training split are ever retrieved, never the row asked about, and its answer never enters the question.
Likeness of meaning is ``semantic``'s.
"""

import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import Protocol

from llm_runner.data.read import Row
from llm_runner.data.value import to_text

MAX_POOL_ROWS = 10_000
"""Random examples come from at most so many training rows, so that memory stays flat."""


class Retriever(Protocol):
    """Finds solved rows for a row that is asked about."""

    def retrieve(self, row: Row) -> Sequence[Row]:
        """Training rows with their answers, best first; ``row`` itself is not among them and needs no answer."""
        ...

    def read_ahead(self, rows: Sequence[Row]) -> None:
        """These rows are asked about next."""
        ...


class RandomRetriever:
    """``k`` rows drawn at random, seeded by the row asked about: the same row always gets the same examples."""

    def __init__(self, pool: Iterable[Row], columns: Sequence[str], k: int, seed: int) -> None:
        self._columns = tuple(columns)
        self._k = k
        self._seed = seed
        # Rows that ask the same are one: the answer to a row's own question is not given away by its twin.
        self._rows = {self._key(row): row for row in pool}
        self._keys = list(self._rows)

    def retrieve(self, row: Row) -> list[Row]:
        own = self._key(row)
        draw = random.Random(own).sample(self._keys, min(self._k + 1, len(self._keys)))
        return [self._rows[key] for key in draw if key != own][: self._k]

    def read_ahead(self, rows: Sequence[Row]) -> None:
        """There is nothing to get ready."""

    def _key(self, row: Row) -> bytes:
        text = question_of(row, self._columns)
        return hashlib.blake2b(f"{self._seed}\x1f{text}".encode(), digest_size=16).digest()


def question_of(row: Row, columns: Sequence[str]) -> str:
    """The same for all rows that ask the same, whatever their case and spacing; knows no answer."""
    return "\x1f".join(" ".join(to_text(row.get(column)).split()).casefold() for column in columns)
