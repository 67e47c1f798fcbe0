"""What is asked of the engine and what it answers: token ids only, no text and no config.

``Request`` goes in; ``Token`` after ``Token`` comes out, and one ``End``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import torch

Processor: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of (token ids [1, tokens], scores [1, vocabulary]) new scores, as transformers' logits processors are."""


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen of its logits: ``processors`` in their order, then temperature, then the filters."""

    temperature: float = 0.0
    """0: the likeliest token, and no filter counts."""
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    seed: int | None = None
    """None: another answer each time."""
    processors: Sequence[Processor] = ()


@dataclass(frozen=True)
class Request:
    """One answer to one prompt."""

    prompt_ids: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end the answer and aren't part of it."""
    adapter: str | None = None
    top_logprobs: int | None = None
    """How many alternatives are told with each token; None: not even the token's own."""
    max_seconds: float | None = None
    """The answer ends after this time, counted from when it was asked for."""


@dataclass(frozen=True)
class Token:
    """The next token of an answer. Log-probabilities are the model's own, before processors and temperature."""

    id: int
    logprob: float | None = None
    top: Sequence[tuple[int, float]] = ()


class EndReason(StrEnum):
    """Why an answer is over."""

    STOP = "stop"
    LENGTH = "length"
    TIME = "time"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True)
class End:
    """The last that is heard of a request."""

    reason: EndReason
    error: Exception | None = None
    cached_tokens: int = 0
    """Tokens of the prompt that were computed for another request before."""


Answer: TypeAlias = Token | End
Deliver: TypeAlias = Callable[[Answer], None]
"""Called on the engine's thread: it must neither block nor raise."""


class NothingToChoose(Exception):
    """A request's own processors leave no token, or scores that are no numbers."""

    def __init__(self) -> None:
        super().__init__(
            "the request's own penalties, biases or suppressed tokens leave no token to choose, or are too large to "
            "compute with; write smaller ones"
        )


class Overloaded(Exception):
    """More requests are waiting than may; the caller should come back later."""


class PromptTooLong(Exception):
    """The prompt leaves no room for an answer."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"the prompt has {tokens} tokens, and at most {limit - 1} leave room for an answer")
        self.tokens = tokens
        self.limit = limit
