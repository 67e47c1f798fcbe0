"""What a client did wrong or can't have now, in the shape that OpenAI's clients know.

{"error": {"message", "type", "param", "code"}} with a status: 400 for what must be changed, 401 for the key, 404 for
a model that isn't there, 413 for too large a body, 429 and 503 for later.
"""

from typing import Any

from llm_api.issues import InvalidConfig


class ApiError(Exception):
    """An answer that isn't one."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after_seconds = retry_after_seconds

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after_seconds is None else {"Retry-After": str(self.retry_after_seconds)}
        return {**headers, "WWW-Authenticate": "Bearer"} if self.status == 401 else headers


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def to_api_error(error: InvalidConfig) -> ApiError:
    """All that is wrong with a body at once; ``param`` is the first of it."""
    return invalid("\n".join(map(str, error.issues)), param=error.issues[0].path or None)


def unknown_model(name: str, known: list[str]) -> ApiError:
    listed = ", ".join(known)
    return ApiError(404, f"there is no model {name!r} here; there are: {listed}", param="model", code="model_not_found")


def no_task(why: str) -> ApiError:
    return ApiError(404, f"this server answers prompts and chats, but no rows: {why}", code="no_task")


def overloaded(retry_after_seconds: int) -> ApiError:
    return ApiError(
        429,
        f"all places are taken and no more requests may wait; try again in {retry_after_seconds} s",
        kind="rate_limit_error",
        code="overloaded",
        retry_after_seconds=retry_after_seconds,
    )


def not_ready(message: str) -> ApiError:
    return ApiError(503, message, kind="server_error", code="not_ready", retry_after_seconds=5)


def failed(message: str) -> ApiError:
    return ApiError(500, message, kind="server_error", code="internal_error")
