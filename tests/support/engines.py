"""Engines of models without weights, and what came out of them, for tests that are about scheduling and sampling."""

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from llm_runner.generate.engine import Engine, EngineLimits
from llm_runner.generate.engine_batch import Piece
from llm_runner.generate.engine_request import Answer, End, Request, Token

VOCABULARY = 258


@dataclass
class ScriptedForward:
    """Every token is as likely as any other, or as ``score`` says of the tokens before it. Notes what it is given."""

    score: Callable[[Sequence[int]], torch.Tensor] = lambda _tokens: torch.zeros(VOCABULARY)
    block_count: int = 64
    shares_prefixes: bool = True
    steps: list[list[Piece]] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    broken_blocks: list[int] = field(default_factory=list)
    before_step: Callable[[], Any] = lambda: None
    _known: dict[int, list[int]] = field(default_factory=dict)

    def __call__(self, pieces: Sequence[Piece]) -> torch.Tensor:
        self.before_step()
        self.steps.append(list(pieces))
        for piece in pieces:
            self._known[piece.sequence] = [
                *self._known.get(piece.sequence, [0] * piece.start)[: piece.start],
                *piece.token_ids,
            ]
        scores = [self.score(self._known[piece.sequence]) for piece in pieces if piece.wants_logits]
        return torch.stack(scores) if scores else torch.empty(0, VOCABULARY)

    def forget(self, sequence: int, broken_blocks: Sequence[int]) -> None:
        self.forgotten.append(sequence)
        self.broken_blocks.extend(broken_blocks)


@contextmanager
def running_engine(forward: Any, **limits: Any) -> Iterator[Engine]:
    engine = Engine(forward, EngineLimits(**{"context_tokens": 256, **limits}))
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


class Collected:
    """What one request was told."""

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def deliver(self, answer: Answer) -> None:
        self._answers.put(answer)

    def next(self) -> Answer:
        return self._answers.get(timeout=60)

    def all(self) -> tuple[list[Token], End]:
        tokens = []
        while isinstance(answer := self.next(), Token):
            tokens.append(answer)
        return tokens, answer


def ask(engine: Engine, *requests: Request) -> list[tuple[list[int], End]]:
    """Token ids and end of each, asked for at once."""
    collected = [Collected() for _ in requests]
    for request, one in zip(requests, collected, strict=True):
        engine.submit(request, one.deliver)
    answers = [one.all() for one in collected]
    return [([token.id for token in tokens], end) for tokens, end in answers]
