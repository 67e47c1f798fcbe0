"""What stands before every request: the key, the size of the body, a count of how it ended, the end of its connection.

Plain ASGI.
"""

import secrets
from collections.abc import Callable
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_runner.serve.errors import ApiError, failed
from llm_runner.serve.metrics import ServerMetrics

GUARDED = "/v1"
MAX_BODY_BYTES = 4 * 2**20


class Guard:
    """Wraps an application. The key's file is read at each request, so that a new one counts at once."""

    def __init__(
        self, app: ASGIApp, *, api_key_path: Path | None, metrics: ServerMetrics, max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self._app = app
        self._api_key_path = api_key_path
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        counted = _Counted(send, self._metrics, scope)
        try:
            headers = Headers(scope=scope)
            self._check_key(scope["path"], headers)
            self._check_size(headers)
            body = await self._read_body(receive)
            if body is not None:
                await self._app(scope, _Replayed(body, receive), counted)
        except ApiError as error:
            response = JSONResponse(error.body, error.status, error.headers)
            await response(scope, receive, counted)

    def _check_key(self, path: str, headers: Headers) -> None:
        if self._api_key_path is None or not path.startswith(GUARDED):
            return
        try:
            key = self._api_key_path.read_bytes().strip()
        except OSError as error:
            raise failed("the server's own key can't be read") from error
        given = headers.get("authorization", "").encode()
        if not key or not secrets.compare_digest(given, b"Bearer " + key):
            raise ApiError(
                401,
                "the key is missing or wrong; send it as 'Authorization: Bearer KEY'",
                kind="authentication_error",
                code="invalid_api_key",
            )

    def _check_size(self, headers: Headers) -> None:
        stated = headers.get("content-length", "0")
        if stated.isdecimal() and int(stated) > self._max_body_bytes:
            raise too_large(self._max_body_bytes)

    async def _read_body(self, receive: Receive) -> bytes | None:
        """Whole, as a size that isn't stated, or not truly, is known then; None where the client left before."""
        body = bytearray()
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                raise too_large(self._max_body_bytes)
            if not message.get("more_body", False):
                return bytes(body)
        return None


class Leaving:
    """Tells whoever asks a server that is stopping to come back by another connection, which leads to another server.

    One that stayed open until the end would be closed under a request that is just being sent.
    """

    def __init__(self, app: ASGIApp, *, is_leaving: Callable[[], bool]) -> None:
        self._app = app
        self._is_leaving = is_leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start" and self._is_leaving():
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_last)


class _Replayed:
    """A body that was read before, and then what comes after it: that the client leaves."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._message: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self._receive = receive

    async def __call__(self) -> Message:
        message, self._message = self._message, None
        return await self._receive() if message is None else message


class _Counted:
    """Notes the status that is answered."""

    def __init__(self, send: Send, metrics: ServerMetrics, scope: Scope) -> None:
        self._send = send
        self._metrics = metrics
        self._scope = scope

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            route = self._scope.get("route")
            path = "other" if route is None else str(route.path)
            self._metrics.responses.labels(path, message["status"]).inc()
        await self._send(message)


def too_large(limit_bytes: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit_bytes} bytes", code="body_too_large")
