"""The endpoint that runners report to while they work: POST NAMESPACE/RUN with a pod's own token.

A report is believed when the API server says whose token it is and that pod belongs to that run. Only the leader keeps
reports, so a standby passes on what reaches it. Nothing here is needed for a run to succeed.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

import aiohttp
from aiohttp import web
from llm_api.report import Progress
from pydantic import ValidationError

from llm_operator.errors import ClusterError
from llm_operator.observed import Manifest, ProgressReport
from llm_operator.tokens import Sender, Tokens

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 1024
FORWARD_SECONDS = 2.0
FORWARDED_HEADER = "Llm-Operator-Forwarded"
JOB_LABEL = "batch.kubernetes.io/job-name"


class Leading(Protocol):
    @property
    def is_leading(self) -> bool: ...

    @property
    def holder(self) -> str | None: ...


class Taking(Protocol):
    """What is told of pods and told to; ``Feed`` is."""

    def pod(self, namespace: str, name: str) -> Manifest | None: ...

    def take_report(self, namespace: str, report: ProgressReport) -> None: ...


class ProgressEndpoint:
    """``count`` is told the HTTP status of each answer; ``address_of`` turns a replica's identity into its address."""

    def __init__(
        self,
        tokens: Tokens,
        taking: Taking,
        leading: Leading,
        count: Callable[[int], None],
        address_of: Callable[[str], str | None],
    ) -> None:
        self._tokens = tokens
        self._taking = taking
        self._leading = leading
        self._count = count
        self._address_of = address_of

    def build_app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/progress/{namespace}/{run}", self.take)
        return app

    async def take(self, request: web.Request) -> web.Response:
        response = await self._answer(request)
        self._count(response.status)
        return response

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            # Read before anything is decided, or the sender may see a broken connection instead of the answer.
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _refuse(413, f"a report has at most {MAX_BODY_BYTES} bytes")
        if not self._leading.is_leading:
            return await self._forward(request, body)
        try:
            return await self._take(request, body)
        except ClusterError as error:
            logger.warning("a report can't be checked: %s", error)
            return _refuse(503, "the token can't be checked now")

    async def _take(self, request: web.Request, body: bytes) -> web.Response:
        sender = await self._tokens.sender(_bearer(request.headers))
        if sender is None:
            return _refuse(401, "send a token of a pod for the audience llmoperator.dev/progress")
        namespace, run = request.match_info["namespace"], request.match_info["run"]
        if not self._may_report(sender, namespace, run):
            return _refuse(403, f"pod {sender.namespace}/{sender.pod_name} does not work for run {namespace}/{run}")
        try:
            progress = Progress.model_validate_json(body)
        except ValidationError as error:
            return _refuse(400, str(error))
        self._taking.take_report(namespace, ProgressReport(sender.pod_name, progress, datetime.now(UTC)))
        return web.Response(status=204)

    def _may_report(self, sender: Sender, namespace: str, run: str) -> bool:
        pod = self._taking.pod(sender.namespace, sender.pod_name)
        if pod is None or sender.namespace != namespace:
            return False
        metadata = pod["metadata"]
        return bool(metadata["uid"] == sender.pod_uid and metadata.get("labels", {}).get(JOB_LABEL) == run)

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        """To the leader, once: whoever gets a report that was passed on and doesn't lead says so."""
        address = None if self._leading.holder is None else self._address_of(self._leading.holder)
        if address is None or FORWARDED_HEADER in request.headers:
            return _refuse(503, "no replica leads now")
        headers = {"Authorization": request.headers.get("Authorization", ""), FORWARDED_HEADER: "1"}
        try:
            timeout = aiohttp.ClientTimeout(total=FORWARD_SECONDS)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(f"{address}{request.path}", data=body, headers=headers, allow_redirects=False) as answer,
            ):
                return web.Response(status=answer.status, text=await answer.text())
        except (aiohttp.ClientError, TimeoutError) as error:
            logger.info("a report can't be passed on to %s: %s", address, error)
            return _refuse(503, "the replica that leads can't be reached now")


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _refuse(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)
