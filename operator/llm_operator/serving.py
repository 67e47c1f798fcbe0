"""The ports of this process. What is answered there is decided elsewhere, but for the probes."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

SHUTDOWN_SECONDS = 2.0


def build_status_app(
    registry: CollectorRegistry, is_alive: Callable[[], bool], is_ready: Callable[[], bool]
) -> web.Application:
    """/metrics, /healthz and /readyz."""
    app = web.Application()
    app.router.add_get("/metrics", make_aiohttp_handler(registry))
    app.router.add_get("/healthz", _probe(is_alive, "the watches have been silent for too long"))
    app.router.add_get("/readyz", _probe(is_ready, "not every watch has been answered yet"))
    return app


@asynccontextmanager
async def serve(
    app: web.Application, host: str | None, port: int, context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """The port that it listens on; 0 takes a free one."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=context)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _probe(holds: Callable[[], bool], otherwise: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="ok") if holds() else web.Response(status=503, text=otherwise)

    return answer
