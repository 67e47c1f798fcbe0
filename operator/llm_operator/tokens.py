"""Who sent a report: a pod, proven by its projected token.

A token is reviewed by the API server and remembered by its hash, never as it is, and no longer than it is valid.
Whether the pod may say what it says is for the caller to decide.
"""

import base64
import binascii
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

AUDIENCE = "llmoperator.dev/progress"
MAX_REMEMBERED = 20_000
REMEMBERED_SECONDS = 300.0
"""A pod that is gone, or a token that was revoked, is found out after this time at the latest."""
REFUSED_SECONDS = 10.0
"""A wrong token is asked about again after this time, not with each report."""

POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"
SERVICE_ACCOUNT = "system:serviceaccount:"


@dataclass(frozen=True)
class Sender:
    """The pod that a token was made for."""

    namespace: str
    pod_name: str
    pod_uid: str


class Reviewer(Protocol):
    """What is needed of the cluster."""

    async def review_token(self, token: str, audience: str) -> Mapping[str, Any]:
        """The status of a TokenReview."""
        ...


@dataclass(frozen=True)
class _Verdict:
    sender: Sender | None
    until: float


class Tokens:
    """Remembers which pod each token belongs to."""

    def __init__(self, reviewer: Reviewer, clock: Callable[[], float] = time.time) -> None:
        self._reviewer = reviewer
        self._clock = clock
        self._verdicts: OrderedDict[bytes, _Verdict] = OrderedDict()

    async def sender(self, token: str) -> Sender | None:
        """None: the token is not one of our audience that a pod holds now. Raises ClusterError if nobody could say."""
        key = hashlib.sha256(token.encode()).digest()
        verdict = self._verdicts.get(key)
        if verdict is None or verdict.until <= self._clock():
            verdict = await self._review(token)
            self._remember(key, verdict)
        return verdict.sender

    async def _review(self, token: str) -> _Verdict:
        now = self._clock()
        # The API server is spared tokens that can't be any, and those that ran out.
        expires = _expiry(token)
        if expires is None or expires <= now:
            return _Verdict(None, now + REFUSED_SECONDS)
        sender = _to_sender(await self._reviewer.review_token(token, AUDIENCE))
        if sender is None:
            return _Verdict(None, now + REFUSED_SECONDS)
        return _Verdict(sender, min(expires, now + REMEMBERED_SECONDS))

    def _remember(self, key: bytes, verdict: _Verdict) -> None:
        self._verdicts[key] = verdict
        self._verdicts.move_to_end(key)
        while len(self._verdicts) > MAX_REMEMBERED:
            self._verdicts.popitem(last=False)


def _to_sender(status: Mapping[str, Any]) -> Sender | None:
    if status.get("authenticated") is not True or AUDIENCE not in status.get("audiences", []):
        return None
    user = status.get("user", {})
    account = str(user.get("username", ""))
    extra = user.get("extra", {})
    if not account.startswith(SERVICE_ACCOUNT) or not extra.get(POD_NAME) or not extra.get(POD_UID):
        return None
    namespace = account.removeprefix(SERVICE_ACCOUNT).partition(":")[0]
    return Sender(namespace, extra[POD_NAME][0], extra[POD_UID][0])


def _expiry(token: str) -> float | None:
    """When a token says that it ends, as seconds since 1970. Nothing is verified here: that is the API server's."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None
