"""One answer on its way from the engine's thread to the event loop, as pieces of text with their tokens.

A client that leaves cancels it. Knows no HTTP and none of OpenAI's shapes.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from tokenizers import Tokenizer

from llm_runner.errors import RunError, UserError
from llm_runner.generate.engine import Engine
from llm_runner.generate.engine_request import Answer, End, EndReason, NothingToChoose, Request, Token
from llm_runner.serve.protocol import FinishReason
from llm_runner.serve.text import AnswerText


@dataclass(frozen=True)
class Piece:
    """What came: some text, and the tokens since the last piece."""

    text: str
    tokens: Sequence[Token] = ()


@dataclass(frozen=True)
class Finish:
    """The last that comes."""

    reason: FinishReason
    new_tokens: int
    cached_tokens: int = 0


class AnswerFailed(Exception):
    """The engine could not go on with it: by its own fault, or by what was asked of it."""

    def __init__(self, message: str, *, is_request_wrong: bool = False) -> None:
        super().__init__(message)
        self.is_request_wrong = is_request_wrong


class AnswerSource(Protocol):
    """Where an answer comes from."""

    def pieces(self) -> AsyncIterator[Piece | Finish]:
        """Pieces, and one Finish. Raises AnswerFailed."""
        ...

    def cancel(self) -> None:
        """Nobody wants it any more; harmless where it is over."""
        ...


class Channel:
    """What the engine says of one request, heard in the event loop that made the channel."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Answer] = asyncio.Queue()

    def deliver(self, answer: Answer) -> None:
        """For the engine's thread. A loop that is over has nobody who listens."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, answer)

    async def next(self) -> Answer:
        return await self._queue.get()


class Conversation:
    """One request of the engine, submitted when this is made; raises what ``Engine.submit`` raises."""

    def __init__(self, engine: Engine, request: Request, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._engine = engine
        self._channel = Channel()
        self._text = AnswerText(tokenizer, stops)
        self._new_tokens = 0
        self._is_over = False
        self._number = engine.submit(request, self._channel.deliver)

    async def pieces(self) -> AsyncIterator[Piece | Finish]:
        waiting: list[Token] = []
        while isinstance(answer := await self._channel.next(), Token):
            self._new_tokens += 1
            waiting.append(answer)
            text = self._text.feed(answer.id)
            if text or self._text.has_stopped:
                yield Piece(text, waiting)
                waiting = []
            if self._text.has_stopped:
                yield Finish("stop", self._new_tokens, await self._stop())
                return
        self._is_over = True
        rest = self._text.flush()
        if rest or waiting:
            yield Piece(rest, waiting)
        yield self._finish(answer)

    def cancel(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._engine.cancel(self._number)

    async def _stop(self) -> int:
        """Ends what the engine can't know to be over; gives the tokens that were cached."""
        self.cancel()
        while isinstance(answer := await self._channel.next(), Token):
            pass
        return answer.cached_tokens

    def _finish(self, end: End) -> Finish:
        if end.reason in (EndReason.FAILED, EndReason.CANCELLED):
            message = "the server is stopping" if end.error is None else str(end.error)
            raise AnswerFailed(
                message, is_request_wrong=isinstance(end.error, NothingToChoose | UserError)
            ) from end.error
        return Finish("stop" if end.reason is EndReason.STOP else "length", self._new_tokens, end.cached_tokens)


class Search:
    """One of the answers that a search gives all at once."""

    def __init__(
        self,
        found: "asyncio.Future[list[list[Token]]]",
        place: int,
        most_tokens: int,
        tokenizer: Tokenizer,
        stops: Sequence[str],
    ) -> None:
        self._found = found
        self._place = place
        self._most_tokens = most_tokens
        self._text = AnswerText(tokenizer, stops)

    async def pieces(self) -> AsyncIterator[Piece | Finish]:
        try:
            tokens = (await asyncio.shield(self._found))[self._place]
        except RunError as error:
            raise AnswerFailed(str(error), is_request_wrong=isinstance(error, UserError)) from error
        text = ""
        for count, token in enumerate(tokens, start=1):
            text += self._text.feed(token.id)
            if self._text.has_stopped:
                yield Piece(text, tokens[:count])
                yield Finish("stop", count)
                return
        yield Piece(text + self._text.flush(), tokens)
        yield Finish("length" if len(tokens) >= self._most_tokens else "stop", len(tokens))

    def cancel(self) -> None:
        """It is dropped if it has not begun; else it is no use to stop, as others may share it."""
        self._found.cancel()
