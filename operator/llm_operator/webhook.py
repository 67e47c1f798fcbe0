"""An optional validating webhook: says every mistake of a manifest at `kubectl apply`, and warns of what is odd.

What it refuses, the operator would put into condition SpecValid all the same; it only says so earlier. Whether the API
server goes on without it is the chart's to say. It changes nothing and asks nobody.
"""

import asyncio
import logging
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web
from llm_api.issues import InvalidConfig, Issue

from llm_operator.reconcile.loading import load_checked

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 8 * 1024 * 1024
"""Old and new object together; the API server keeps none above 1.5 MiB."""
SECONDS_BETWEEN_LOOKS = 10.0
MAX_WARNING_LENGTH = 256


def build_app() -> web.Application:
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_post("/validate", _validate)
    return app


async def _validate(request: web.Request) -> web.Response:
    try:
        review = await request.json()
        answer = review_admission(review["request"])
    except (ValueError, KeyError, TypeError):
        return web.json_response({"message": "send an AdmissionReview of admission.k8s.io/v1"}, status=400)
    return web.json_response({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer})


def review_admission(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to an AdmissionReview's request."""
    allowed = {"uid": request["uid"], "allowed": True}
    document, before = request.get("object"), request.get("oldObject")
    if document is None or _is_let_through(document, before):
        return allowed
    try:
        resource = load_checked(document)
    except InvalidConfig as error:
        return {"uid": request["uid"], "allowed": False, "status": _build_status(document, error.issues)}
    warnings = [f"spec.config.{warning}"[:MAX_WARNING_LENGTH] for warning in resource.spec.config.warnings()]
    return {**allowed, "warnings": warnings} if warnings else allowed


def _is_let_through(document: Mapping[str, Any], before: Mapping[str, Any] | None) -> bool:
    """What is going, or doesn't change what is wanted, can't be held up: a newer operator may be stricter."""
    if "deletionTimestamp" in document["metadata"]:
        return True
    return before is not None and before.get("spec") == document.get("spec")


def _build_status(document: Mapping[str, Any], issues: Sequence[Issue]) -> dict[str, Any]:
    """A Status as the API server itself gives it for what its schema refuses."""
    causes = [
        {"reason": "FieldValueInvalid", "field": issue.path, "message": str(issue).removeprefix(f"{issue.path}: ")}
        for issue in issues
    ]
    lines = "; ".join(str(issue) for issue in issues)
    return {
        "code": 422,
        "reason": "Invalid",
        "message": lines,
        "details": {"name": document["metadata"].get("name", ""), "kind": document.get("kind", ""), "causes": causes},
    }


class Certificate:
    """tls.crt and tls.key of a mounted Secret, in use anew when they change."""

    def __init__(self, folder: Path) -> None:
        self._files = (folder / "tls.crt", folder / "tls.key")
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._loaded = self._stamps()
        self.context.load_cert_chain(*self._files)

    async def follow(self) -> None:
        """Never returns. Connections that are open keep the certificate that they began with."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            self.reload()

    def reload(self) -> None:
        try:
            stamps = self._stamps()
            if stamps == self._loaded:
                return
            self.context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            # Halfway through a rotation the two may not match; the old pair goes on working.
            logger.warning("the webhook's certificate can't be read anew: %s", error)
            return
        self._loaded = stamps
        logger.info("the webhook's certificate was read anew")

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        found = [file.stat() for file in self._files]
        return tuple((stat.st_mtime_ns, stat.st_ino) for stat in found)
