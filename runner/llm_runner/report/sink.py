"""Where reports of a run go: what each destination must take. Decides nothing and writes nothing itself."""

from dataclasses import dataclass
from typing import Literal, Protocol

from llm_api.report import Outcome, Progress

Level = Literal["info", "warning"]


class HoldOutFigures(Protocol):
    """What one evaluation found."""

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood of a target token, in nats; of pairs, their method's own."""

    @property
    def perplexity(self) -> float: ...

    @property
    def next_token_accuracy(self) -> float:
        """Between 0 and 1."""

    @property
    def reward_accuracy(self) -> float | None:
        """Between 0 and 1; None where there are no pairs with rewards."""

    @property
    def reward_margin(self) -> float | None: ...


@dataclass(frozen=True)
class Evaluated:
    """An evaluation on the hold-out after ``step`` optimizer steps."""

    step: int
    loss: float
    perplexity: float
    next_token_accuracy: float
    reward_accuracy: float | None = None
    reward_margin: float | None = None


class Sink:
    """Takes every report and drops it; a destination overrides what it shows.

    Called from one thread, in the order in which things happen; ``close`` comes last, once.
    """

    def phase(self, progress: Progress) -> None:
        """A phase began; the figures are those of the newest step."""

    def step(self, progress: Progress) -> None: ...

    def evaluated(self, evaluated: Evaluated) -> None: ...

    def message(self, level: Level, text: str) -> None: ...

    def outcome(self, outcome: Outcome) -> None: ...

    def close(self) -> None: ...
