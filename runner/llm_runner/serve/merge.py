"""Several answers at once, as one stream of events; when nobody listens any more, all of them end."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import TypeAlias

from llm_runner.serve.answer import AnswerSource, Finish, Piece

Event: TypeAlias = tuple[int, Piece | Finish]
"""Which answer, and what of it."""


async def merge_answers(sources: Sequence[AnswerSource]) -> AsyncIterator[Event]:
    """Events in the order that they come; ends when every answer has. Raises what a source raises."""
    queue: asyncio.Queue[Event | BaseException] = asyncio.Queue()
    tasks = [asyncio.create_task(_pump(place, source, queue)) for place, source in enumerate(sources)]
    left = len(sources)
    try:
        while left > 0:
            event = await queue.get()
            if isinstance(event, BaseException):
                raise event
            left -= isinstance(event[1], Finish)
            yield event
    finally:
        for source in sources:
            source.cancel()
        await _end(tasks)


async def _pump(place: int, source: AnswerSource, queue: "asyncio.Queue[Event | BaseException]") -> None:
    try:
        async for piece in source.pieces():
            queue.put_nowait((place, piece))
    except Exception as error:
        queue.put_nowait(error)


async def _end(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
