import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, web
from llm_operator.health import (
    INACTIVE_SECONDS,
    SETTLED_SECONDS,
    STALE_SECONDS,
    WATCH_SECONDS,
    Heartbeats,
    wait_for_beginning,
)
from llm_operator.metrics import Metrics
from llm_operator.serving import build_status_app, serve
from prometheus_client import generate_latest


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_process_that_never_hears_anything_is_found_out() -> None:
    clock = Clock()
    heartbeats = Heartbeats(clock)
    assert heartbeats.is_alive()
    clock.now = STALE_SECONDS
    assert not heartbeats.is_alive()


def test_one_watch_that_hangs_is_not_hidden_by_the_others() -> None:
    clock = Clock()
    heartbeats = Heartbeats(clock)
    heartbeats.beat("/pods")
    while clock.now < STALE_SECONDS:
        clock.now += WATCH_SECONDS
        heartbeats.beat("/jobs")
    assert not heartbeats.is_alive()
    heartbeats.beat("/pods")
    assert heartbeats.is_alive()


def test_quiet_watches_are_answered_often_enough_to_be_alive() -> None:
    assert WATCH_SECONDS < INACTIVE_SECONDS < STALE_SECONDS / 3


def test_every_watch_must_have_been_heard_once() -> None:
    heartbeats = Heartbeats()
    heartbeats.beat("/api/v1/pods")
    assert not heartbeats.has_heard(["/api/v1/pods", "/apis/batch/v1/jobs"])
    heartbeats.beat("/apis/batch/v1/jobs")
    assert heartbeats.has_heard(["/api/v1/pods", "/apis/batch/v1/jobs"])


def test_nothing_is_decided_before_every_list_is_read_and_handled() -> None:
    async def scenario() -> None:
        state = {"heard": False, "taken": 0}
        waiting = asyncio.create_task(wait_for_beginning(lambda: bool(state["heard"]), lambda: int(state["taken"])))
        await asyncio.sleep(SETTLED_SECONDS * 2)
        assert not waiting.done(), "a list has not been read"
        state["heard"] = True
        for _ in range(8):
            state["taken"] += 100
            await asyncio.sleep(SETTLED_SECONDS / 2)
        assert not waiting.done(), "objects are still coming"
        async with asyncio.timeout(SETTLED_SECONDS * 10):
            await waiting

    asyncio.run(scenario())


async def answer(request: web.Request) -> web.Response:
    return web.Response(status=int(request.query.get("status", "200")))


@asynccontextmanager
async def watching(heartbeats: Heartbeats) -> AsyncIterator[ClientSession]:
    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    async with (
        serve(app, "127.0.0.1", 0) as port,
        ClientSession(f"http://127.0.0.1:{port}", trace_configs=[heartbeats.trace()]) as session,
    ):
        yield session


def test_a_watch_that_the_server_accepts_is_a_sign_of_life_and_nothing_else_is() -> None:
    async def scenario() -> None:
        heartbeats = Heartbeats(Clock())
        async with watching(heartbeats) as session:
            for path in ("/pods", "/pods?watch=true&status=500"):
                async with session.get(path):
                    assert not heartbeats.has_heard(["/pods"])
            async with session.get("/pods?watch=true"):
                assert heartbeats.has_heard(["/pods"])

    asyncio.run(scenario())


def test_a_list_is_a_gap_where_there_was_a_watch_before() -> None:
    async def scenario() -> None:
        heartbeats = Heartbeats()
        async with watching(heartbeats) as session:
            for path in ("/pods?limit=500", "/pods?watch=true", "/jobs?limit=500", "/pods?limit=500&status=503"):
                async with session.get(path):
                    assert not heartbeats.gap.is_set()
            async with session.get("/pods?limit=500"):
                assert heartbeats.gap.is_set()

    asyncio.run(scenario())


@pytest.mark.parametrize(("alive", "ready"), [(True, True), (True, False), (False, True)])
def test_probes_and_metrics_are_answered(alive: bool, ready: bool) -> None:
    async def scenario() -> list[Any]:
        app = build_status_app(Metrics().registry, lambda: alive, lambda: ready)
        found = []
        async with serve(app, "127.0.0.1", 0) as port, ClientSession(f"http://127.0.0.1:{port}") as session:
            for path in ("/healthz", "/readyz", "/metrics"):
                async with session.get(path) as response:
                    found.append(response.status)
        return found

    assert asyncio.run(scenario()) == [200 if alive else 503, 200 if ready else 503, 200]


def test_answers_of_the_api_that_are_errors_or_missing_are_counted() -> None:
    metrics = Metrics()

    async def scenario() -> None:
        app = web.Application()
        app.router.add_get("/{tail:.*}", answer)
        async with ClientSession(trace_configs=[metrics.trace()]) as session:
            async with serve(app, "127.0.0.1", 0) as port:
                for status in (200, 404, 500):
                    async with session.get(f"http://127.0.0.1:{port}/?status={status}"):
                        pass
            with pytest.raises(OSError):  # noqa: PT011 - which of them differs between systems
                await session.get(f"http://127.0.0.1:{port}/")

    asyncio.run(scenario())
    text = generate_latest(metrics.registry).decode()
    for code in ("404", "500", "none"):
        assert f'llm_operator_api_errors_total{{code="{code}",verb="GET"}} 1.0' in text
    assert 'code="200"' not in text
