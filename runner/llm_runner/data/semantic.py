"""Solved examples by likeness of meaning: the training rows whose questions lie closest to the one asked.

Searches exactly, over all rows that are kept. What makes vectors of texts is passed in.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llm_runner.data.prompt import render_sample
from llm_runner.data.read import Row
from llm_runner.data.retrieval import question_of

Embed = Callable[[Sequence[str]], Tensor]
"""Texts to vectors of length 1, (texts, size)."""


class SemanticRetriever:
    """The ``k`` rows that ask what is most like the question, best first. No answer is ever looked at."""

    def __init__(self, pool: Sequence[Row], vectors: Tensor, columns: Sequence[str], k: int, embed: Embed) -> None:
        """``vectors``: of the pool's rows, (rows, size), as ``embed_rows`` makes them."""
        self._columns = tuple(columns)
        self._k = k
        self._embed = embed
        # Rows that ask the same are one: the answer to a row's own question is not given away by its twin.
        places = {question_of(row, columns): place for place, row in enumerate(pool)}
        self._places = {question: number for number, question in enumerate(places)}
        self._rows = [pool[place] for place in places.values()]
        self._vectors = vectors[list(places.values())]
        self._ahead: dict[str, Tensor] = {}

    def read_ahead(self, rows: Sequence[Row]) -> None:
        """Makes the vectors of the rows that are asked about next, which takes less time than one by one."""
        unknown = {question_of(row, self._columns): row for row in rows}
        unknown = {question: row for question, row in unknown.items() if question not in self._places}
        vectors = embed_rows(list(unknown.values()), self._columns, self._embed) if unknown else ()
        self._ahead = dict(zip(unknown, vectors, strict=True))

    def retrieve(self, row: Row) -> list[Row]:
        question = question_of(row, self._columns)
        own = self._places.get(question)
        likeness = self._vectors @ self._vector_of(row, question, own)
        order = torch.argsort(likeness, descending=True, stable=True)[: self._k + 1].tolist()
        return [self._rows[place] for place in order if place != own][: self._k]

    def _vector_of(self, row: Row, question: str, own: int | None) -> Tensor:
        if own is not None:
            return self._vectors[own]
        ahead = self._ahead.get(question)
        return embed_rows([row], self._columns, self._embed)[0] if ahead is None else ahead


def embed_rows(rows: Sequence[Row], columns: Sequence[str], embed: Embed) -> Tensor:
    """Vectors of what the rows ask: their ``columns``, of which the answer is none."""
    return embed([render_sample(row, columns) for row in rows])
