"""Tokens that look like a pod's, and an API server's answers about them, for tests that need no real one."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from llm_operator.tokens import AUDIENCE

NOW = 1_800_000_000.0


class Reviewer:
    """Answers as the API server does, and counts."""

    def __init__(self, **changes: Any) -> None:
        self.asked = 0
        self.status: Mapping[str, Any] = {**review_status(), **changes}

    async def review_token(self, token: str, audience: str) -> Mapping[str, Any]:
        assert audience == AUDIENCE
        self.asked += 1
        return self.status


def review_status() -> dict[str, Any]:
    extra = {"authentication.kubernetes.io/pod-name": ["pod-0"], "authentication.kubernetes.io/pod-uid": ["uid-0"]}
    user = {"username": "system:serviceaccount:team:default", "extra": extra}
    return {"authenticated": True, "audiences": [AUDIENCE], "user": user}


def token(expires: float = NOW + 3600, salt: str = "") -> str:
    claims = json.dumps({"exp": expires, "salt": salt}).encode()
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b"{}", claims, b"signature"))
