"""Runs the application: listens at once, loads the model meanwhile, and on SIGTERM finishes what it has.

SIGTERM makes the server unready first and closed later, so that whoever sends it requests can notice.
"""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from llm_runner.serve.app import ServerState
from llm_runner.serve.service import Service

DRAIN_SECONDS = 5.0
"""How long requests are still taken after SIGTERM: about as long as a cluster takes to send them elsewhere."""

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than clients keep theirs, so that it isn't closed under a request."""


class DrainingServer(uvicorn.Server):
    """The first signal starts to drain; another one doesn't wait for answers."""

    def __init__(self, app: FastAPI, state: ServerState, drain_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
            )
        )
        self._state = state
        self._drain_seconds = drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._state.is_draining or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        # Ctrl-C comes from a person, and no cluster has to be waited for.
        self.drain(0.0 if sig == signal.SIGINT else self._drain_seconds)

    def drain(self, seconds: float) -> None:
        """Takes requests for a while, but says that it is not ready; then finishes those that it has."""
        self._state.is_draining = True
        if self._state.service is None:
            self.should_exit = True
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._exit)

    def _exit(self) -> None:
        self.should_exit = True


class ModelServer:
    """A server over a state that becomes ready once ``load`` is through; a failure to load ends it."""

    def __init__(
        self, app: FastAPI, state: ServerState, load: Callable[[], Service], *, drain_seconds: float = DRAIN_SECONDS
    ) -> None:
        self._server = DrainingServer(app, state, drain_seconds)
        self._drain_seconds = drain_seconds
        self._state = state
        self._load = load
        self._failure: BaseException | None = None

    def run(self, listener: socket.socket) -> None:
        """Returns once the server was stopped and all that it had is answered. Raises what ``load`` raises."""
        # A daemon: a server that is stopped while it loads doesn't wait for gigabytes to arrive.
        threading.Thread(target=self._load_model, name="loading", daemon=True).start()
        try:
            asyncio.run(self._server.serve([listener]))
        finally:
            if self._state.service is not None:
                self._state.service.engine.close()
        if self._failure is not None:
            raise self._failure

    def drain(self) -> None:
        """What a first SIGTERM does."""
        self._server.drain(self._drain_seconds)

    def _load_model(self) -> None:
        try:
            self._state.service = self._load()
        except BaseException as error:
            self._failure = error
            self._server.should_exit = True
