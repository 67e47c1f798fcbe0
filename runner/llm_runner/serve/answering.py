"""One request of a client, which may want several answers: started together, told whole or as a stream, and closed.

Whatever happens in between - an error, a client that leaves - closing ends what is still being generated.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from llm_runner.serve.answer import AnswerFailed, AnswerSource, Finish, Piece
from llm_runner.serve.errors import ApiError, failed, invalid
from llm_runner.serve.merge import merge_answers
from llm_runner.serve.protocol import Usage
from llm_runner.serve.render import Collected, Count

T = TypeVar("T")

CLIENT_CLOSED_REQUEST = 499
"""What servers note for a client that left; nobody reads it."""


class Shape(Protocol):
    """Of the bodies that answers are told in."""

    def whole(self, answers: Sequence[Collected], usage: Usage) -> BaseModel: ...

    def openings(self, answers: int) -> Sequence[BaseModel]: ...

    def chunk(self, index: int, event: Piece | Finish) -> BaseModel: ...

    def closing(self, usage: Usage) -> BaseModel: ...


class Answering:
    """Answers that are on their way."""

    def __init__(self, shape: Shape, sources: Sequence[AnswerSource], count: Count, resources: ExitStack) -> None:
        self._shape = shape
        self._sources = sources
        self._count = count
        self._resources = resources

    def close(self) -> None:
        for source in self._sources:
            source.cancel()
        self._resources.close()

    async def respond(self, client: Request) -> Response:
        """All of it as one body."""
        try:
            answers = await unless_gone(client, self._collect())
        except AnswerFailed as error:
            raise to_failure(error) from error
        finally:
            self.close()
        if answers is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        body = self._shape.whole(answers, self._count.usage)
        return JSONResponse(body.model_dump(mode="json"))

    def stream(self, *, include_usage: bool) -> Response:
        """Server-sent events, as they come."""
        return _AnswerStream(self, self._events(include_usage=include_usage))

    async def _collect(self) -> list[Collected]:
        answers = [Collected() for _ in self._sources]
        async for index, event in merge_answers(self._sources):
            answers[index].add(event)
            self._count.add(event)
        return answers

    async def _events(self, *, include_usage: bool) -> AsyncIterator[str]:
        for opening in self._shape.openings(len(self._sources)):
            yield _to_event(opening.model_dump_json())
        try:
            async for index, event in merge_answers(self._sources):
                self._count.add(event)
                yield _to_event(self._shape.chunk(index, event).model_dump_json())
        except AnswerFailed as error:
            yield _to_event(json.dumps(to_failure(error).body))
            return
        if include_usage:
            yield _to_event(self._shape.closing(self._count.usage).model_dump_json())
        yield _to_event("[DONE]")


class _AnswerStream(StreamingResponse):
    """Closes its answers also where not a single event is ever asked for."""

    def __init__(self, answering: Answering, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answering.close()


def to_failure(error: AnswerFailed) -> ApiError:
    return invalid(str(error)) if error.is_request_wrong else failed(str(error))


def _to_event(data: str) -> str:
    return f"data: {data}\n\n"


async def unless_gone(client: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work gives; None where the client left before, and the work was ended for it."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_wait_until_gone(client))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _wait_until_gone(client: Request) -> None:
    while (await client.receive())["type"] != "http.disconnect":
        pass
