"""Far more clients than a server takes on: each request is answered or told when to come back, and none is lost."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.servers import RunningServer, running_server, serve_run

CLIENTS = 200
REQUESTS_EACH = 2
NEW_TOKENS = 8
BODY: dict[str, Any] = {"model": "tiny", "max_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
CONNECTIONS = httpx.Limits(max_connections=None, max_keepalive_connections=None)


@pytest.fixture(scope="module")
def small(chat_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Four places, two that may wait."""
    run = serve_run(chat_model_path, {"generation": {"do_sample": False}}, maxConcurrency=4)
    with running_server(run, tmp_path_factory.mktemp("small")) as running:
        yield running


def open_client(server: RunningServer) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", limits=CONNECTIONS, timeout=120)


async def ask(client: httpx.AsyncClient, number: int) -> int:
    """The status; raises unless what comes with it is whole."""
    prompt = f"{number} asks for something"
    response = await client.post("/v1/completions", json={**BODY, "prompt": prompt, "stream": number % 2 == 0})
    if response.status_code == 429:
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["code"] == "overloaded"
    elif number % 2 == 0:
        assert response.text.endswith("data: [DONE]\n\n")
    else:
        assert response.json()["usage"]["completion_tokens"] == NEW_TOKENS
    return response.status_code


async def flood(server: RunningServer) -> Counter[int]:
    async def ask_again_and_again(client: httpx.AsyncClient, number: int) -> list[int]:
        return [await ask(client, number * REQUESTS_EACH + turn) for turn in range(REQUESTS_EACH)]

    async with open_client(server) as client:
        told = await asyncio.gather(*(ask_again_and_again(client, number) for number in range(CLIENTS)))
    return Counter(status for statuses in told for status in statuses)


def test_every_request_of_far_too_many_clients_is_answered_or_told_to_come_back(small: RunningServer) -> None:
    told = asyncio.run(flood(small))
    assert told.keys() == {200, 429}
    assert told.total() == CLIENTS * REQUESTS_EACH
    assert small.service.engine.open_requests == 0
    assert small.post("/v1/completions", {**BODY, "prompt": "after it"}).status == 200


async def persist(client: httpx.AsyncClient, number: int) -> int:
    """Asks until it is answered, as a polite client does but sooner; gives how often it was told to wait."""
    waits = 0
    while await ask(client, number) == 429:
        waits += 1
        await asyncio.sleep(0.5)
    return waits


def test_clients_that_come_back_are_all_answered_in_the_end(small: RunningServer) -> None:
    async def all_of_them() -> list[int]:
        async with open_client(small) as client:
            return await asyncio.gather(*(persist(client, number) for number in range(CLIENTS)))

    waits = asyncio.run(all_of_them())
    assert len(waits) == CLIENTS
    assert sum(waits) > 0


async def ask_and_leave(server: RunningServer, number: int) -> None:
    """Hangs up without having read a byte."""
    body = json.dumps({**BODY, "prompt": f"{number} leaves"}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: server\r\nContent-Length: {len(body)}\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head.encode() + body)
    await writer.drain()
    await asyncio.sleep(0.3)
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


def test_clients_that_leave_in_the_middle_of_a_flood_free_their_places(small: RunningServer) -> None:
    async def stay_and_leave() -> list[int]:
        async with open_client(small) as client:
            staying = asyncio.gather(*(persist(client, number) for number in range(CLIENTS // 2)))
            await asyncio.gather(*(ask_and_leave(small, number) for number in range(CLIENTS // 2)))
            return await staying

    assert len(asyncio.run(stay_and_leave())) == CLIENTS // 2
    deadline = time.monotonic() + 60
    while small.service.engine.open_requests:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert small.get("/healthz").status == 200
