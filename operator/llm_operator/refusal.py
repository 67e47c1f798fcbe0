"""What an error of the client library means: the one place that reads HTTP statuses. Calls nothing."""

import json
from collections.abc import Mapping
from typing import Any

from kubernetes.aio.client.exceptions import ApiException

from llm_operator.errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    Forbidden,
    NamespaceTerminating,
    NotFound,
    Refused,
    Unavailable,
)


def to_error(error: Exception, subject: str) -> ClusterError:
    """``subject`` is what was being written or read, as people name it."""
    if not isinstance(error, ApiException):
        return Unavailable(f"{subject}: no answer from the Kubernetes API ({type(error).__name__}: {error})")
    answer = _body(error)
    message = answer.get("message") or error.reason or f"HTTP {error.status}"
    return _class_of(error.status, answer)(f"{subject}: {message}")


def _class_of(status: int, answer: Mapping[str, Any]) -> type[ClusterError]:
    match status:
        case 404 | 410:
            return NotFound
        case 409:
            return AlreadyExists if answer.get("reason") == "AlreadyExists" else Conflict
        case 403:
            return _class_of_forbidden(answer)
        case 400 | 405 | 406 | 413 | 415 | 422:
            return Refused
        case _:
            # 401 too: a projected token that ran out is read anew for the next try.
            return Unavailable


def _class_of_forbidden(answer: Mapping[str, Any]) -> type[ClusterError]:
    """RBAC, a namespace that is going, and all that admission says no to share one status."""
    causes = (answer.get("details") or {}).get("causes") or []
    if any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
        return NamespaceTerminating
    return Forbidden if _is_by_rbac(str(answer.get("message", ""))) else Refused


def _is_by_rbac(message: str) -> bool:
    """The authorizer's wording: User "…" cannot create resource "jobs" in API group "batch" …"""
    return 'User "' in message and '" cannot ' in message and " resource " in message


def _body(error: ApiException) -> Mapping[str, Any]:
    """The Status object of the API server; something else where a proxy answered."""
    body = error.body
    try:
        answer = json.loads(body) if body else {}
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
