"""Many requests through an engine that others may use too: so many open at once, and patient where it is full.

Knows neither rows nor text.
"""

import queue
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from time import sleep
from typing import Generic, TypeVar

from llm_runner.errors import Stopped
from llm_runner.generate.engine import Engine
from llm_runner.generate.engine_request import Answer, End, EndReason, Overloaded, PromptTooLong, Request, Token

K = TypeVar("K")
T = TypeVar("T")

PATIENCE_SECONDS = 0.02
"""Between two tries to get a place that others have."""
NOT_SUBMITTED = -1
STOP_SECONDS = 0.2
"""How often a stop is looked for while nothing comes."""


class EngineEnded(RuntimeError):
    """The engine takes nothing on any more: it has failed, or was closed."""


@dataclass
class Finished(Generic[K]):
    """One request, and all that was answered."""

    key: K
    tokens: list[Token] = field(default_factory=list)
    end: End | None = None


class Flow(Generic[K]):
    """One pass of requests; ``most_open()`` of them at a time."""

    def __init__(self, engine: Engine, most_open: Callable[[], int], should_stop: Callable[[], bool]) -> None:
        self._engine = engine
        self._most_open = most_open
        self._should_stop = should_stop
        self._answers: queue.SimpleQueue[tuple[Finished[K], Answer]] = queue.SimpleQueue()
        self._open: dict[int, int] = {}

    def run(self, requests: Iterable[tuple[K, Request]]) -> Iterator[Finished[K]]:
        """In the order in which they end. Raises Stopped once ``should_stop()`` is true, and EngineEnded."""
        waiting = iter(requests)
        held = next(waiting, None)
        try:
            while held is not None or self._open:
                while held is not None and len(self._open) < self._most_open() and self._submit(*held):
                    held = next(waiting, None)
                if not self._open:
                    self._pause()
                elif (finished := self._hear()) is not None:
                    yield finished
        finally:
            for number in self._open.values():
                self._engine.cancel(number)

    def _submit(self, key: K, request: Request) -> bool:
        """False where all places are taken."""
        finished = Finished(key)
        try:
            number = self._engine.submit(request, lambda answer: self._answers.put((finished, answer)))
        except Overloaded as error:
            if self._engine.has_ended:
                raise EngineEnded(str(error)) from error
            return False
        except PromptTooLong as error:
            # The cache may hold less than the model's context.
            number = NOT_SUBMITTED
            self._answers.put((finished, End(EndReason.FAILED, error)))
        self._open[id(finished)] = number
        return True

    def _hear(self) -> Finished[K] | None:
        if self._should_stop():
            raise Stopped("stopped while rows were being answered")
        try:
            finished, answer = self._answers.get(timeout=STOP_SECONDS)
        except queue.Empty:
            return None
        if isinstance(answer, Token):
            finished.tokens.append(answer)
            return None
        del self._open[id(finished)]
        if answer.reason is EndReason.CANCELLED or self._engine.failure is not None:
            raise EngineEnded(f"the engine has ended: {self._engine.failure}") from self._engine.failure
        finished.end = answer
        return finished

    def _pause(self) -> None:
        if self._should_stop():
            raise Stopped("stopped while rows were waiting for a place")
        sleep(PATIENCE_SECONDS)


def call_patiently(engine: Engine, function: Callable[[], T], should_stop: Callable[[], bool]) -> T:
    """What ``function`` gives on the engine's thread. Raises Stopped and EngineEnded, as nobody may call it then."""
    future = engine.call(function)
    while True:
        if engine.has_ended:
            raise EngineEnded("the engine has ended")
        if should_stop() and future.cancel():
            raise Stopped("stopped while rows were being answered")
        try:
            return future.result(timeout=STOP_SECONDS)
        except TimeoutError:
            if future.done():
                raise
