"""Clients that ask a server one thing after the other, many at once, and note what became of each request.

A client that is told to come back later does so when it was told to. Judges nothing.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import aiohttp

from benchmarks.endpoints import NEW_TOKENS, Endpoint

PATH = "/v1/completions"
PATIENCE_SECONDS = 300
TOO_MANY_REQUESTS = 429


class Fate(StrEnum):
    """What became of a request."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """Told to come back, and when."""
    LOST = "lost"


@dataclass(frozen=True)
class Outcome:
    """Of one request; times count from when it was sent."""

    fate: Fate
    seconds: float
    first_token_seconds: float | None = None
    tokens: int = 0
    retry_after_seconds: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class Load:
    """What some clients together were given."""

    outcomes: Sequence[Outcome]
    seconds: float

    def of(self, fate: Fate) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.fate is fate]

    @property
    def tokens_per_second(self) -> float:
        return sum(outcome.tokens for outcome in self.outcomes) / self.seconds

    @property
    def first_token_seconds(self) -> float:
        """Median."""
        told = [outcome.first_token_seconds for outcome in self.of(Fate.ANSWERED)]
        return statistics.median(seconds for seconds in told if seconds is not None)

    @property
    def p95_seconds(self) -> float:
        """Of those that were answered."""
        return statistics.quantiles((outcome.seconds for outcome in self.of(Fate.ANSWERED)), n=20)[-1]


def run_clients(
    endpoint: Endpoint, prompts: Iterator[str], count: int, until: Callable[[], bool] = lambda: False
) -> Load:
    """``count`` clients share the prompts, until there are no more or ``until`` says so."""
    return asyncio.run(_run_clients(endpoint, prompts, count, until))


async def _run_clients(endpoint: Endpoint, prompts: Iterator[str], count: int, until: Callable[[], bool]) -> Load:
    outcomes: list[Outcome] = []
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)

    async def ask_on(session: aiohttp.ClientSession) -> None:
        for prompt in prompts:
            if until():
                return
            outcomes.append(outcome := await ask(session, endpoint, prompt))
            await asyncio.sleep(outcome.retry_after_seconds)

    started = time.perf_counter()
    async with aiohttp.ClientSession(endpoint.url, connector=connector, timeout=timeout) as session:
        await asyncio.gather(*(ask_on(session) for _ in range(count)))
    return Load(outcomes, time.perf_counter() - started)


async def ask(session: aiohttp.ClientSession, endpoint: Endpoint, prompt: str) -> Outcome:
    """One answer, streamed."""
    body = {**endpoint.body, "prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "stream": True}
    started = time.perf_counter()
    try:
        async with session.post(PATH, json=body) as response:
            if response.status == TOO_MANY_REQUESTS:
                retry_after = float(response.headers["Retry-After"])
                return Outcome(Fate.REFUSED, time.perf_counter() - started, retry_after_seconds=retry_after)
            response.raise_for_status()
            return await follow(response, started)
    except (aiohttp.ClientError, TimeoutError, KeyError, ValueError) as error:
        return Outcome(Fate.LOST, time.perf_counter() - started, problem=repr(error))


async def follow(response: aiohttp.ClientResponse, started: float) -> Outcome:
    """Raises ValueError where the answer is shorter than it was asked to be."""
    first: float | None = None
    tokens = 0
    async for line in response.content:
        if first is None and b'"text"' in line:
            first = time.perf_counter() - started
        if b'"usage":{' in line:
            tokens = read_usage(line)
    if tokens != NEW_TOKENS:
        raise ValueError(f"{tokens} tokens in place of {NEW_TOKENS}")
    return Outcome(Fate.ANSWERED, time.perf_counter() - started, first, tokens)


def read_usage(line: bytes) -> int:
    chunk: Any = json.loads(line.removeprefix(b"data: "))
    return int(chunk["usage"]["completion_tokens"])
